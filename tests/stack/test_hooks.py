"""Fused paths for one token step aside for other people's hooks, and take over when these go."""

import pytest
import torch
from tests.stack.test_rwkv4_decode import TAPPED, OneToken, layer_of, token
from tests.stacks import ids_of, relative, view_of

from laminogram.infer import captured
from laminogram.stack.hooks import has_hooked_mixer, is_hooked
from laminogram.stack.kernels import matvec
from laminogram.stack.layer import CompiledRunLayer
from laminogram.stack.mixers import row_decode, rows_decode
from laminogram.stack.taps import NO_TAPS

HOOKS = ("register_forward_hook", "register_forward_pre_hook")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("mixer", ["attn", "ffn"])
def test_hooks_are_found_where_they_are(mixer, hook):
    layer = view_of("llama").stack.layer(0)
    assert not has_hooked_mixer(layer)
    handle = getattr(layer.get_submodule(mixer), hook)(lambda *_: None)
    assert has_hooked_mixer(layer) and is_hooked(layer.get_submodule(mixer))
    assert not is_hooked(layer)  # the layer is called as one, whatever it does inside
    handle.remove()
    assert not has_hooked_mixer(layer)


@torch.no_grad()
@pytest.mark.parametrize("least", [1, 1 << 20], ids=["one compiled call", "operations of torch"])
@pytest.mark.parametrize("mixer", ["attn", "ffn"])
def test_rwkv4_decoders_let_them_be_called(mixer, least, monkeypatch):
    monkeypatch.setattr(matvec, "LEAST_ENTRIES", least)
    layer, calls = layer_of(), []
    slot, usual = layer.new_slot(1, 8, "both"), layer.new_slot(1, 8, "both")

    def read(seed):
        x = token(layer, seed)
        found = layer(x.clone(), OneToken(), slot, NO_TAPS)
        made = len(calls)
        assert relative(found, layer(x.clone(), OneToken(), usual, TAPPED)) < 2e-6
        del calls[made:]

    read(1)
    assert slot.decoder is not None
    handle = layer.get_submodule(mixer).register_forward_hook(lambda *_: calls.append(mixer))
    read(2)
    assert calls == [mixer]
    handle.remove()
    read(3)
    assert calls == [mixer]


class Context:
    """All that the row kernels ask of a context before they run."""

    start, lengths, streams = None, None, {"v_first": None}


@pytest.fixture
def served(monkeypatch):
    """Row kernels that only say that they ran."""
    ran: list[str] = []

    def half(layer, x, ctx, slot, keep):
        ran.append("half")
        return x, None

    def half_of_rows(layer, stream, *rest):
        ran.append("half")
        return stream

    monkeypatch.setattr(row_decode, "INTERPRETED", True)
    monkeypatch.setattr(row_decode, "triton_missing", lambda: None)
    for halves, found in ((row_decode._HALVES, half), (rows_decode._HALVES, half_of_rows)):
        for kind in list(halves):
            monkeypatch.setitem(halves, kind, found)
    return ran


def layer_and_slot(kind, rows=1):
    layer = view_of(kind).stack.layer(1).requires_grad_(False)
    return layer, layer.new_slot(rows, 8, "both")


@torch.no_grad()
@pytest.mark.parametrize(("kind", "rows"), [("llama", 1), ("llama", 2), ("rwkv4", 2), ("rwkv7", 1)])
@pytest.mark.parametrize("mixer", ["attn", "ffn"])
def test_row_kernels_leave_a_hooked_mixer_to_the_usual_path(kind, rows, mixer, served):
    layer, slot = layer_and_slot(kind, rows)
    x = torch.ones(rows, 1, layer.attn_norm.size)

    def decoded():
        return row_decode.decoded(layer, x, Context(), slot, NO_TAPS)

    assert decoded() is not None and served == ["half", "half"]
    handle = layer.get_submodule(mixer).register_forward_hook(lambda *_: None)
    assert decoded() is None
    handle.remove()
    assert decoded() is not None


@torch.no_grad()
@pytest.mark.parametrize("path", ["", "attn", "ffn"])
def test_a_hooked_layer_is_not_run_compiled(path, monkeypatch):
    compiled: list[int] = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *_: compiled.append(1))
    run, calls, ids = CompiledRunLayer("eager"), [], ids_of(1, 3)
    view = view_of("llama")
    usual, view.stack.run_layer = view.logits(ids), run
    layers = view.stack.layers
    for layer in layers:
        layer.get_submodule(path).register_forward_hook(lambda *_: calls.append(1))
    assert view.logits(ids).equal(usual)
    assert len(calls) == len(layers) and not compiled


def test_no_step_is_captured_where_there_are_hooks(monkeypatch):
    monkeypatch.setattr(captured, "DEVICES", ("cpu",))
    view = view_of("llama")
    assert captured.refusal(view) is None
    handle = view.stack.layer(0).ffn.register_forward_hook(lambda *_: None)
    assert "hooks" in captured.refusal(view)
    handle.remove()
