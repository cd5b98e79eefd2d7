"""Layers that one token passes in one call: which they are, and that the numbers are the usual."""

from __future__ import annotations

import pytest
import torch
from tests.stack.test_shortened import stack_of
from tests.stacks import relative

from laminogram.infer.decode_graph import StaticReads
from laminogram.stack.kernels import matvec
from laminogram.stack.mixers import fused
from laminogram.view import View

pytest.importorskip("numba")

TEXT = [5, 9, 2, 7, 1, 8]


@pytest.fixture
def calls(monkeypatch):
    """How many layers each call had."""
    found = []
    real = fused.through

    def noted(decoders, x, ctx):
        found.append(len(decoders))
        return real(decoders, x, ctx)

    monkeypatch.setattr(matvec, "LEAST_ENTRIES", 1)
    monkeypatch.setattr(fused, "through", noted)
    return found


def view_of(kind):
    stack = stack_of(kind)
    return View(stack, None, "test", stack.full_plan())


@torch.no_grad()
def decode(view, **how):
    """Logits (T, V) of a text, token after token."""
    cache = view.new_cache(1)
    return torch.cat([view.run(view.tokens([[one]]), cache=cache, **how)[0] for one in TEXT])


@pytest.mark.parametrize("kind", ["llama", "rwkv4"])
@pytest.mark.parametrize(
    ("plan", "at_once"), [("0-2", [3]), ("0, 1, 0, 2", [4]), ("1, 2.ffn, 0, 1, 2", [1, 3])]
)
def test_logits_are_those_of_the_whole_text(calls, kind, plan, at_once):
    view = view_of(kind).using(plan=plan)
    assert relative(decode(view), view.logits([TEXT])[0]) < 1e-5
    assert calls == at_once * len(TEXT)


@pytest.mark.parametrize("kind", ["llama", "rwkv4"])
@torch.no_grad()
def test_a_call_ends_where_somebody_looks(calls, kind):
    view = view_of(kind).using(plan="0, 1, 0, 1, 0")
    whole = torch.tensor(view.record([TEXT], ["attn_out"], steps=[2])["attn_out", 2])
    assert not calls  # a text is no token
    reads, cache, found = StaticReads(), view.new_cache(1), []
    observer = view.program(reads={2: ("attn_out",)}, sink=reads)
    for one in TEXT:
        view.run(view.tokens([[one]]), cache=cache, observer=observer)
        found.append(reads["attn_out", 2].clone())
    assert relative(torch.cat(found, 1), whole) < 1e-5
    assert calls == [2, 2] * len(TEXT)


@pytest.mark.parametrize("kind", ["llama", "rwkv4"])
def test_a_layer_with_a_hook_is_called(calls, kind):
    view, heard = view_of(kind), []
    plain = decode(view)
    calls.clear()
    handle = view.stack.layer(1).register_forward_hook(lambda *_: heard.append(1))
    hooked = decode(view)
    handle.remove()
    assert torch.equal(plain, hooked) and len(heard) == len(TEXT)
    assert calls == [1] * 3 * len(TEXT)
    calls.clear()
    own = view.stack.run_layer
    view.stack.run_layer = lambda *given: own(*given)  # somebody's own way to run a layer
    assert torch.equal(plain, decode(view)) and calls == [1] * 3 * len(TEXT)
