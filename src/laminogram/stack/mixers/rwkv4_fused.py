"""What the compiled kernel of RWKV-4's layer takes (`kernels/token/rwkv4.py`).

Large layers only, and only where numba is there; else `rwkv4_decode` does it in torch.

Axes: C channels, A width, F ffn width.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from laminogram.stack.cache import StepSlot
from laminogram.stack.kernels.matvec import fits_by_inputs, kind_of
from laminogram.stack.mixers.fused import STREAMS, FusedDecoder, Weights, stored, vector

if TYPE_CHECKING:
    from laminogram.stack.layer import Layer


@cache
def _kernel() -> ModuleType:
    return importlib.import_module("laminogram.stack.kernels.token.rwkv4")


def fused_decoder(layer: Layer, slot: StepSlot, dtype: torch.dtype) -> FusedDecoder | None:
    """A decoder for this layer, memory and dtype of the residual stream; None where the kernel does
    not take them."""
    memory, norms = slot.attn.shift, (layer.attn_norm, layer.ffn_norm)
    if memory.dtype is not dtype or dtype not in STREAMS:
        return None
    if any(norm.offset or norm.bias is None for norm in norms):
        return None
    if not all(x.is_contiguous() for x in _memories(slot)):
        return None
    attn: Any = layer.attn
    ffn: Any = layer.ffn
    products = attn.r, attn.k, attn.v, attn.o, ffn.up, ffn.r
    found = stored(products)
    down = stored((ffn.down,), fits_by_inputs) or stored((ffn.down,))
    if found is None or down is None:
        return None
    weights = Weights((*products, ffn.down), found + down, slot.short)
    vectors: list[Any] = [x for norm in norms for x in (norm.weight, norm.bias)]
    vectors += [attn.mix_r, attn.mix_k, attn.mix_v, ffn.mix_k, ffn.mix_r]
    values = {
        "KIND": kind_of(memory),
        "WEIGHTS": weights,
        "TABLE": np.stack([vector(x) for x in vectors]),
        "PAST": np.stack([-np.exp(vector(attn.decay)), vector(attn.bonus)]),
        "EPS": np.array([norm.eps for norm in norms], np.float32),
        "ATTN_SHIFT": memory.data_ptr(),
        "FFN_SHIFT": slot.ffn.shift.data_ptr(),
        "STATE": slot.attn.state.data_ptr(),
        "SIZE": layer.attn_norm.size,
        "WIDTH": attn.decay.numel(),
    }
    return FusedDecoder(layer, slot, dtype, _memories, weights, _kernel(), values)


def _memories(slot: StepSlot) -> tuple[Any, ...]:
    return slot.attn.shift, slot.attn.state, slot.ffn.shift
