from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.infer.speaking import speaking_view
from tests.stacks import KINDS, SIGNED, view_of

from laminogram.errors import TokenError
from laminogram.infer import captured
from laminogram.infer.decode_graph import DecodeGraph
from laminogram.probe import edits
from laminogram.stack import kernels
from laminogram.stack.cache import AttentionSlot, StateSlot
from laminogram.stack.mixers.attention import Attention
from laminogram.studies.doctor import Report, _slow_kernels, examine


def verdicts(report: Report) -> dict[str, bool | None]:
    return {row.name: row.held for row in report.rows}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_healthy_stacks_hold(kind: str, precision: str) -> None:
    dtype: Any = torch.float64 if precision == "fp64" else precision
    report = examine(view_of(kind).using(precision=dtype))
    assert report.ok, str(report)
    held = verdicts(report)
    assert held["block equation"]
    assert held["no-op edit changes nothing"]
    assert held["batch equals rows (left pads)"]
    assert held["cache equals no cache"] is (None if kind == "bert" else True)
    assert held["pattern rows sum to 1"] is (None if kind in SIGNED else True)
    assert held["pattern @ v == z"] is (
        None if kind in ("rwkv4", "rwkv5") else True  # the small RWKV-5 has a tuned initial state
    )
    for row in report.rows:
        assert (row.value is None) == (row.held is None)
        assert row.note
        assert str(row) in str(report)


@pytest.mark.parametrize("plan", ["2, 0, 0.attn", "0.ffn, 1.ffn", "2-0"])
def test_any_plan_is_examined(plan: str) -> None:
    for kind in ("gpt_neox", "rwkv7", "bert"):
        report = examine(view_of(kind).using(plan=plan))
        assert report.ok, str(report)


def test_text_and_edits() -> None:
    view = speaking_view("llama").using(edits=edits.scale("resid_mid", 3.0))
    report = examine(view, "a text of its own")
    assert report.ok, str(report)
    assert "step mode equals sequence mode: held" in str(report)
    with pytest.raises(TokenError, match="need at least 4"):
        examine(view, "ab")


def wrong_step(old: Callable[..., Any]) -> Callable[..., Any]:
    """A slot that remembers something else than it was given."""

    def store(self: Any, shift: torch.Tensor, *rest: Any) -> None:
        old(self, shift * 1.01, *rest)

    return store


def test_a_forgetful_state_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StateSlot, "store", wrong_step(StateSlot.store))
    held = verdicts(examine(view_of("rwkv7")))
    assert held["step mode equals sequence mode"] is False
    assert held["cache equals no cache"] is False
    assert held["batch equals rows (right pads)"] is True


def test_a_forgetful_cache_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    old = AttentionSlot.extend

    def extend(self: Any, k: torch.Tensor, *rest: Any) -> None:
        old(self, k * 1.01, *rest)

    monkeypatch.setattr(AttentionSlot, "extend", extend)
    report = examine(view_of("llama"))
    assert verdicts(report)["step mode equals sequence mode"] is False
    assert not report.ok
    assert "BROKEN" in str(report)


def test_a_wrong_scale_of_the_fast_path_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Attention._fused

    def fused(self: Any, q: torch.Tensor, *rest: Any) -> torch.Tensor:
        return old(self, q * 1.1, *rest)

    monkeypatch.setattr(Attention, "_fused", fused)
    assert verdicts(examine(view_of("gpt_neox")))["pattern @ v == z"] is False


def test_a_wrong_pattern_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    old = kernels.wkv4_pattern
    monkeypatch.setattr(kernels, "wkv4_pattern", lambda *given: old(*given) * 0.99)
    assert verdicts(examine(view_of("rwkv4")))["pattern rows sum to 1"] is False


def test_a_wrong_block_equation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from laminogram.stack import layer

    old = layer._parallel
    monkeypatch.setattr(layer, "_parallel", lambda *given: old(*given) * 1.001)
    assert verdicts(examine(view_of("gpt_neox")))["block equation"] is False


def test_a_batch_that_leaks_between_rows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of("llama")
    inner = view.stack.run_layer

    def leaking(layer: Any, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        return inner(layer, x + 0.01 * x.mean(0, keepdim=True), *rest)

    monkeypatch.setattr(view.stack, "run_layer", leaking)
    assert verdicts(examine(view))["batch equals rows (left pads)"] is False


def test_a_captured_step_is_compared_or_the_reason_told(monkeypatch: pytest.MonkeyPatch) -> None:
    view, name = view_of("llama"), "captured step equals the usual one"
    row = next(row for row in examine(view).rows if row.name == name)
    assert row.held is None and "not on cpu" in row.note
    monkeypatch.setattr(captured, "DEVICES", ("cpu",))  # the same step, without a graph
    assert verdicts(examine(view))[name] is True
    step = DecodeGraph.step
    monkeypatch.setattr(DecodeGraph, "step", lambda *given: 1.1 * step(*given))
    assert verdicts(examine(view))[name] is False

    def waits(*given: object) -> None:
        raise RuntimeError("something waits for the device")

    monkeypatch.setattr(DecodeGraph, "step", waits)
    row = next(row for row in examine(view).rows if row.name == name)
    assert row.held is None and "something waits" in row.note


@pytest.mark.parametrize("kind", ["rwkv5", "rwkv6", "rwkv7"])
def test_kernels_that_a_gpu_lacks_are_named(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(kernels, "_SIZES", (128,))
    view = view_of(kind)
    there = SimpleNamespace(device=torch.device("cuda"))
    rows = list(_slow_kernels(SimpleNamespace(stack=there, plan=view.plan, config=view.config)))
    assert [row.name for row in rows] == ["fast kernels"]
    assert f"{kind}_time runs in plain torch" in rows[0].note
    assert not list(_slow_kernels(view))
