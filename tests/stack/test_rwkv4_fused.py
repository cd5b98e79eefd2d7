"""RWKV-4's layer for one token in one call: the numbers of the usual path, and of the memory."""

import pytest
import torch
from tests.stack.test_rwkv4_decode import OneToken, layer_of, token
from tests.stacks import relative
from torch import nn

from laminogram.stack.kernels import matvec
from laminogram.stack.mixers.fused import FusedDecoder
from laminogram.stack.mixers.rwkv4_decode import LayerDecoder
from laminogram.stack.quantise.int8 import Int8
from laminogram.stack.quantise.packed import Packed
from laminogram.stack.taps import NO_TAPS, Taps

pytest.importorskip("numba")

CLOSE = {torch.float32: 2e-6, torch.bfloat16: 3e-2}
TAPPED = Taps(reads=("wkv",))  # a tap takes the usual path
PRODUCTS = ("attn.r", "attn.k", "attn.v", "attn.o", "ffn.up", "ffn.r", "ffn.down")


@pytest.fixture(autouse=True)
def small_too(monkeypatch):
    monkeypatch.setattr(matvec, "LEAST_ENTRIES", 1)


def slots(layer):
    return layer.new_slot(1, 8, "both"), layer.new_slot(1, 8, "both")


@torch.no_grad()
def assert_equal_paths(layer, slot, usual, seeds=(1, 2, 3)):
    """Tokens through both paths, from memories that are equal, to equal memories."""
    close = CLOSE[layer.attn_norm.weight.dtype]
    for seed in seeds:
        x = token(layer, seed)
        found = layer(x.clone(), OneToken(), slot, NO_TAPS)
        expected = layer(x.clone(), OneToken(), usual, TAPPED)
        assert isinstance(slot.decoder, FusedDecoder) and usual.decoder is None
        assert found.dtype is x.dtype and relative(found, expected) < close
        for (_, own), (_, other) in zip(slot.parts(), usual.parts(), strict=True):
            for name, memory in own.tensors().items():
                assert relative(memory, other.tensors()[name]) < close


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_paths_agree_and_the_decoder_is_kept(dtype):
    layer = layer_of(dtype)
    slot, usual = slots(layer)
    assert_equal_paths(layer, slot, usual)
    kept = slot.decoder
    assert_equal_paths(layer, slot, usual, seeds=(4, 5))
    assert slot.decoder is kept


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_zeros_are_skipped_where_the_weight_lies_by_its_inputs(dtype):
    layer = layer_of(dtype)
    layer.ffn.up.weight[::3] = 0  # rows without any share, beside those of negative sums
    down = layer.ffn.down.weight
    down.data = down.data.t().contiguous().t()
    assert_equal_paths(layer, *slots(layer))
    down.data[:, ::3] = torch.nan  # never read, for what enters there is zero
    found = layer(token(layer, 1), OneToken(), slots(layer)[0], NO_TAPS)
    assert found.isfinite().all()


@pytest.mark.parametrize("per", ["row", "tensor"])
def test_int8_weights(per):
    layer = layer_of()
    for path in PRODUCTS:
        product = layer.get_submodule(path)
        packed = Packed(product.weight, Int8(per))
        del product.weight
        product.weight = packed
    assert_equal_paths(layer, *slots(layer))


@pytest.mark.parametrize("how", ["written", "replaced", "moved"])
def test_a_change_of_any_parameter_is_seen(how):
    layer = layer_of()
    slot, usual = slots(layer)
    assert_equal_paths(layer, slot, usual, seeds=(1,))
    for name, parameter in list(layer.named_parameters()):
        owner = layer.get_submodule(name.rpartition(".")[0])
        new = parameter * 0.5 + 0.1
        if how == "written":
            parameter.copy_(new)
        elif how == "replaced":
            setattr(owner, name.rpartition(".")[2], nn.Parameter(new, requires_grad=False))
        else:
            parameter.data = new
        assert_equal_paths(layer, slot, usual, seeds=(2,))


def test_another_memory_has_a_decoder_of_its_own():
    layer = layer_of()
    slot, usual = slots(layer)
    assert_equal_paths(layer, slot, usual)
    slot.attn, usual.attn = layer.new_slot(1, 8, "both").attn, layer.new_slot(1, 8, "both").attn
    assert_equal_paths(layer, slot, usual)


@torch.no_grad()
def test_fp64_and_small_layers_stay_with_torch(monkeypatch):
    layer = layer_of(torch.float64)
    slot = layer.new_slot(1, 8, "both")
    layer(token(layer, 1), OneToken(), slot, NO_TAPS)
    assert isinstance(slot.decoder, LayerDecoder)
    monkeypatch.setattr(matvec, "LEAST_ENTRIES", 1 << 20)
    layer = layer_of(torch.float32)
    slot = layer.new_slot(1, 8, "both")
    layer(token(layer, 1), OneToken(), slot, NO_TAPS)
    assert isinstance(slot.decoder, LayerDecoder)


@torch.no_grad()
def test_what_is_not_a_number_stays_so():
    layer = layer_of()
    slot = layer.new_slot(1, 8, "both")
    layer.attn.r.weight[0, 0] = torch.nan
    assert layer(token(layer, 1), OneToken(), slot, NO_TAPS).isnan().all()
