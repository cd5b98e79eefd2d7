"""One layer of RWKV-4 for one token of one row in one call of a compiled kernel, for weights in
fp32, bf16 or int8 (`kernels/_rwkv4_numba.py`).

Large layers only, and only where numba is there; else `rwkv4_decode` does it in torch. Weights and
memories are read where they lie. Vectors are copied in fp32: a write to them past autograd's eyes
(`.data`, a numpy view) is seen by a new cache only.

Axes: C channels, A width, F ffn width.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from laminogram.stack.cache import StepSlot
from laminogram.stack.kernels.crew import crew
from laminogram.stack.kernels.matvec import fits, fits_by_inputs, kind_of
from laminogram.stack.kernels.wkv4_decode import stamp

if TYPE_CHECKING:
    from laminogram.stack.layer import Layer

_STREAMS = (torch.float32, torch.bfloat16)
Stored = tuple[Tensor, Tensor | None]
"""What is read of a weight: its numbers (O, I), and the steps (O,) of int8 ones."""


@cache
def _kernel() -> ModuleType:
    return importlib.import_module("laminogram.stack.kernels._rwkv4_numba")


def fused_decoder(layer: Layer, slot: StepSlot) -> FusedDecoder | None:
    """A decoder for this layer and memory; None where the kernel does not take its weights."""
    memory, norms = slot.attn.shift, (layer.attn_norm, layer.ffn_norm)
    if memory.dtype not in _STREAMS or any(norm.offset or norm.bias is None for norm in norms):
        return None
    stored = [_stored(linear.weight) for linear in _linears(layer)]
    found = [one for one in stored if one is not None]
    if len(found) < len(stored):
        return None
    *others, (down, _) = found
    if not all(fits(numbers) for numbers, _ in others) or not (fits(down) or fits_by_inputs(down)):
        return None
    return FusedDecoder(layer, slot, found)


def _linears(layer: Layer) -> tuple[Any, ...]:
    """In the order of the kernel."""
    attn, ffn = layer.attn, layer.ffn
    return attn.r, attn.k, attn.v, attn.o, ffn.up, ffn.r, ffn.down


def _stored(weight: Any) -> Stored | None:
    """What a kernel reads of a weight, dense or packed; None where it is not stored in rows."""
    if isinstance(weight, Tensor):
        return weight.detach(), None
    rows = getattr(weight, "int8_rows", None)
    found: Stored | None = None if rows is None else rows()
    return found


class FusedDecoder:
    """`Layer.forward` of one token; the slot's shifts and state move on."""

    def __init__(self, layer: Layer, slot: StepSlot, stored: list[Stored]) -> None:
        attn: Any = layer.attn
        ffn, norms = layer.ffn, (layer.attn_norm, layer.ffn_norm)
        self._watch = _Watch(layer, slot)
        self._stored = stored  # the kernel has only addresses
        products = np.array([_row(*one) for one in stored], np.int64)
        vectors: list[Any] = [x for norm in norms for x in (norm.weight, norm.bias)]
        vectors += [attn.mix_r, attn.mix_k, attn.mix_v, ffn.mix_k, ffn.mix_r]
        past = np.stack([_array(-torch.exp(_wide(attn.decay))), _array(_wide(attn.bonus))])
        shifts = np.array([slot.attn.shift.data_ptr(), slot.ffn.shift.data_ptr()], np.int64)
        size, inner = layer.attn_norm.size, stored[4][0].shape[0]
        kernel = _kernel()
        self._step, self._kind = kernel.layer_step, kind_of(slot.attn.shift)
        self._constant = (
            products,
            np.stack([_array(_wide(x)) for x in vectors]),
            past,
            np.array([norm.eps for norm in norms], np.float32),
            shifts,
            slot.attn.state[0].numpy(),
            np.empty((kernel.WIDE, max(size, inner)), np.float32),
            np.empty((kernel.NARROW, max(size, past.shape[1])), np.float32),
        )

    def serves(self, layer: Layer, slot: StepSlot) -> bool:
        """Whether it was made for this layer, as it is now, and this very memory."""
        return self._watch.unchanged(layer, slot)

    def __call__(self, x: Tensor) -> Tensor:
        """`x (1, 1, C) -> (1, 1, C)`."""
        x, out = x.contiguous(), torch.empty_like(x)
        with crew().at_work() as job:
            self._step(job, self._kind, x.data_ptr(), *self._constant, out.data_ptr())
        return out


def _wide(x: Tensor) -> Tensor:
    return x.detach().float()


def _array(x: Tensor) -> np.ndarray:
    return x.numpy()


def _row(numbers: Tensor, scale: Tensor | None) -> tuple[int, ...]:
    steps = 0 if scale is None else scale.data_ptr()
    return (kind_of(numbers), numbers.data_ptr(), steps, *numbers.shape)


class _Watch:
    """What a decoder took for granted: modules, parameters, memories."""

    def __init__(self, layer: nn.Module, slot: StepSlot) -> None:
        modules = list(layer.modules())
        self._modules = [module._modules for module in modules]
        self._parts = [list(table.values()) for table in self._modules]
        self._tables = [module._parameters for module in modules if module._parameters]
        self._memories = self._of(slot)
        self._stamps = self._now()

    def unchanged(self, layer: nn.Module, slot: StepSlot) -> bool:
        return (
            layer._modules is self._modules[0]
            and all(a is b for a, b in zip(self._of(slot), self._memories))
            and [list(table.values()) for table in self._modules] == self._parts
            and self._now() == self._stamps
        )

    def _of(self, slot: StepSlot) -> tuple[Any, ...]:
        return slot.attn.shift, slot.attn.state, slot.ffn.shift

    def _now(self) -> list[tuple[int, int] | None]:
        values = (x for table in self._tables for x in table.values())
        return [None if x is None else stamp(x) for x in values]
