"""One layer of RWKV-4 for one token of one row in one call of a compiled kernel
(`kernels/_rwkv4_numba.py`).

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
from torch import Tensor

from laminogram.stack.cache import StepSlot
from laminogram.stack.kernels.crew import crew
from laminogram.stack.kernels.matvec import fits_by_inputs, kind_of
from laminogram.stack.mixers.fused import STREAMS, Watch, Weights, stored, vector

if TYPE_CHECKING:
    from laminogram.stack.layer import Layer


@cache
def _kernel() -> ModuleType:
    return importlib.import_module("laminogram.stack.kernels._rwkv4_numba")


def fused_decoder(layer: Layer, slot: StepSlot) -> FusedDecoder | None:
    """A decoder for this layer and memory; None where the kernel does not take its weights."""
    memory, norms = slot.attn.shift, (layer.attn_norm, layer.ffn_norm)
    if memory.dtype not in STREAMS or any(norm.offset or norm.bias is None for norm in norms):
        return None
    attn: Any = layer.attn
    ffn: Any = layer.ffn
    products = attn.r, attn.k, attn.v, attn.o, ffn.up, ffn.r
    found = stored(products)
    down = stored((ffn.down,), fits_by_inputs) or stored((ffn.down,))
    if found is None or down is None:
        return None
    return FusedDecoder(layer, slot, Weights((*products, ffn.down), found + down, slot.short))


class FusedDecoder:
    """`Layer.forward` of one token; the slot's shifts and state move on."""

    def __init__(self, layer: Layer, slot: StepSlot, weights: Weights) -> None:
        attn: Any = layer.attn
        ffn: Any = layer.ffn
        norms = layer.attn_norm, layer.ffn_norm
        self._watch = Watch(layer, _memories(slot))
        self._weights = weights
        vectors: list[Any] = [x for norm in norms for x in (norm.weight, norm.bias)]
        vectors += [attn.mix_r, attn.mix_k, attn.mix_v, ffn.mix_k, ffn.mix_r]
        past = np.stack([-np.exp(vector(attn.decay)), vector(attn.bonus)])
        shifts = np.array([slot.attn.shift.data_ptr(), slot.ffn.shift.data_ptr()], np.int64)
        size, inner = layer.attn_norm.size, ffn.up.weight.shape[0]
        kernel = _kernel()
        self._step, self._kind = kernel.layer_step, kind_of(slot.attn.shift)
        self._constant = (
            weights.table,
            np.stack([vector(x) for x in vectors]),
            past,
            np.array([norm.eps for norm in norms], np.float32),
            shifts,
            slot.attn.state[0].numpy(),
            np.empty((kernel.ROWS, max(size, past.shape[1])), np.float32),
            np.empty(max(3 * past.shape[1], inner + size), np.float32),
        )

    def serves(self, layer: Layer, slot: StepSlot) -> bool:
        """Whether it was made for this layer, as it is now, and this very memory."""
        return self._watch.unchanged(layer, _memories(slot))

    def __call__(self, x: Tensor) -> Tensor:
        """`x (1, 1, C) -> (1, 1, C)`."""
        x, out = x.contiguous(), torch.empty_like(x)
        self._weights.count()
        with crew().at_work() as job:
            self._step(job, self._kind, x.data_ptr(), *self._constant, out.data_ptr())
        return out


def _memories(slot: StepSlot) -> tuple[Any, ...]:
    return slot.attn.shift, slot.attn.state, slot.ffn.shift
