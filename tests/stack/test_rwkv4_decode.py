"""RWKV-4's one-token path: the same numbers as the usual one, whatever became of the parameters."""

from collections.abc import Mapping

import pytest
import torch
from tests.stacks import relative, view_of
from torch import nn

from laminogram.stack.mixers.rwkv4_decode import LayerDecoder
from laminogram.stack.taps import NO_TAPS, Taps

CLOSE = 1e-6
TAPPED = Taps(reads=("wkv",))  # a tap takes the usual path


class OneToken:
    """All that these mixers ask of a context."""

    lengths, start, columns, rope = None, 0, 1, ()
    streams: Mapping[str, torch.Tensor] = {}

    def last(self, h):
        return h[:, -1]


def layer_of(dtype=torch.float32):
    return view_of("rwkv4").stack.layer(1).to(dtype).requires_grad_(False)


def token(layer, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 1, layer.attn_norm.size, generator=generator)
    return x.to(layer.attn_norm.weight.dtype)


@torch.no_grad()
def assert_equal_paths(layer, slot, usual, seeds=(1, 2), *, decoded=True):
    """One token each through both paths, from memories that are equal, to equal memories."""
    for seed in seeds:
        x = token(layer, seed)
        found = layer(x.clone(), OneToken(), slot, NO_TAPS)
        expected = layer(x.clone(), OneToken(), usual, TAPPED)
        assert isinstance(slot.decoder, LayerDecoder) == decoded and usual.decoder is None
        assert relative(found, expected) < CLOSE
        for (_, own), (_, other) in zip(slot.parts(), usual.parts(), strict=True):
            for name, memory in own.tensors().items():
                assert relative(memory, other.tensors()[name]) < CLOSE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_paths_agree_and_the_decoder_is_kept(dtype):
    layer = layer_of(dtype)
    slot, usual = layer.new_slot(1, 8, "both"), layer.new_slot(1, 8, "both")
    assert_equal_paths(layer, slot, usual)
    kept = slot.decoder
    assert_equal_paths(layer, slot, usual, seeds=(3, 4))
    assert slot.decoder is kept


@pytest.mark.parametrize("how", ["written", "replaced", "moved"])
def test_a_change_of_any_parameter_is_seen(how):
    layer = layer_of()
    slot, usual = layer.new_slot(1, 8, "both"), layer.new_slot(1, 8, "both")
    assert_equal_paths(layer, slot, usual)
    for name, parameter in list(layer.named_parameters()):
        owner = layer.get_submodule(name.rpartition(".")[0])
        new = parameter * 0.5 + 0.1
        if how == "written":
            parameter.copy_(new)
        elif how == "replaced":
            setattr(owner, name.rpartition(".")[2], nn.Parameter(new, requires_grad=False))
        else:
            parameter.data = new
        assert_equal_paths(layer, slot, usual)


@pytest.mark.parametrize("path", ["attn", "ffn", "attn_norm", "ffn_norm", "attn.k", "ffn.down"])
def test_another_module_is_seen(path):
    layer, other = layer_of(), view_of("rwkv4", seed=5).stack.layer(2).requires_grad_(False)
    slot, usual = layer.new_slot(1, 8, "both"), layer.new_slot(1, 8, "both")
    assert_equal_paths(layer, slot, usual)
    owner, _, name = path.rpartition(".")
    setattr(layer.get_submodule(owner), name, other.get_submodule(path))
    assert_equal_paths(layer, slot, usual)


def test_another_memory_has_a_decoder_of_its_own():
    layer = layer_of()
    slot, usual = layer.new_slot(1, 8, "both"), layer.new_slot(1, 8, "both")
    assert_equal_paths(layer, slot, usual)
    slot.attn, usual.attn = layer.new_slot(1, 8, "both").attn, layer.new_slot(1, 8, "both").attn
    assert_equal_paths(layer, slot, usual)


class Packed:
    """A weight that multiplies itself."""

    def __init__(self, weight):
        self.weight, self.shape, self.dtype = weight, weight.shape, weight.dtype

    def product(self, x):
        return x @ self.weight.t()


@pytest.mark.parametrize("path", ["attn.r", "attn.o", "ffn.up", "ffn.down"])
def test_a_packed_weight_takes_the_usual_path(path):
    layer = layer_of()
    slot, usual = layer.new_slot(1, 8, "both"), layer.new_slot(1, 8, "both")
    product = layer.get_submodule(path)
    packed = Packed(product.weight.detach())
    del product.weight
    product.weight = packed
    assert_equal_paths(layer, slot, usual, decoded=False)


@torch.no_grad()
def test_what_comes_out_is_not_overwritten_and_what_goes_in_stays():
    layer = layer_of()
    slot = layer.new_slot(1, 8, "both")
    x = token(layer, 1)
    given = x.clone()
    first = layer(x, OneToken(), slot, NO_TAPS)
    kept = first.clone()
    layer(token(layer, 2), OneToken(), slot, NO_TAPS)
    assert torch.equal(first, kept) and torch.equal(x, given)


def test_half_a_layer_a_gradient_or_several_rows_take_the_usual_path():
    layer = layer_of()
    slot = layer.new_slot(1, 8, "both")
    with torch.no_grad():
        layer(token(layer, 1), OneToken(), slot, NO_TAPS, "attn")
        layer(token(layer, 1).expand(2, 1, -1), OneToken(), layer.new_slot(2, 8, "both"), NO_TAPS)
    layer(token(layer, 1), OneToken(), slot, NO_TAPS)
    assert slot.decoder is None


@torch.no_grad()
def test_fp16_weights_under_an_fp32_residual_take_the_usual_path():
    layer = layer_of(torch.float16)
    slot, usual = layer.new_slot(1, 8, "both"), layer.new_slot(1, 8, "both")
    x = token(layer, 1).float()
    found = layer(x.clone(), OneToken(), slot, NO_TAPS)
    assert slot.decoder is None
    assert torch.equal(found, layer(x.clone(), OneToken(), usual, TAPPED))
