"""What the compiled kernels take of layers of RWKV-5 and 6 (`kernels/token/rwkv6.py`) and of
RWKV-7 (`kernels/token/rwkv7.py`).

Large layers only, and only where numba is there; everything else goes the usual way.

Axes: C channels, A = H D width, H heads, D head, R rank.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from laminogram.stack.cache import StateSlot, StepSlot
from laminogram.stack.kernels.matvec import dtype_kind, fits_by_inputs
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.fused import (
    STREAMS,
    Entries,
    FusedDecoder,
    Stage,
    Value,
    Weights,
    kind_of_norm,
    scaled,
    stored,
    vector,
)
from laminogram.stack.mixers.rwkv5 import TimeMix5
from laminogram.stack.mixers.rwkv6 import ORDER, TimeMix6
from laminogram.stack.mixers.rwkv7 import ChannelMix7, TimeMix7

if TYPE_CHECKING:
    from laminogram.stack.layer import Layer


@cache
def _kernel(name: str) -> ModuleType:
    return importlib.import_module(f"laminogram.stack.kernels.{name}")


_LETTERS = "rkvgw"
"""The products of RWKV-6 that read the token, in the kernel's order."""


_turned = WeakTensorKeyDictionary()
"""By parameter: its low-rank products."""


class Half(NamedTuple):
    """One half of a low-rank product, as a product: `weight` (O, I), which lies by its inputs."""

    weight: Tensor


def row_decoder(layer: Layer, slot: StepSlot, dtype: torch.dtype) -> FusedDecoder | None:
    """The decoder that the slot keeps, or a new one where that no longer serves; None where the
    kernel does not take the layer, or not in this dtype of the residual stream."""
    kept = slot.decoder
    if isinstance(kept, FusedDecoder) and kept.serves(layer, slot, dtype):
        return kept
    made = _new_decoder(layer, slot, dtype)
    if made is not None:
        slot.decoder = made
    return made


def _new_decoder(layer: Layer, slot: StepSlot, dtype: torch.dtype) -> FusedDecoder | None:
    memory: Any = slot.attn
    if type(memory) is not StateSlot or memory.shift.dtype is not dtype or dtype not in STREAMS:
        return None
    if memory.state is None or memory.state.dtype is not torch.float32:
        return None
    if not all(x.is_contiguous() for x in _memories(slot)):
        return None
    attn: Any = layer.attn
    dense = _dense(attn)
    found = None if dense is None else _weights(attn, layer.ffn, dense, slot.short)
    if found is None:
        return None
    kernel = _kernel("token.rwkv7" if type(attn) is TimeMix7 else "token.rwkv6")
    values = _of_7(layer, slot) if type(attn) is TimeMix7 else _of_5_and_6(layer, slot)
    values |= {
        "KIND": dtype_kind(dtype),
        "NORM": kind_of_norm(layer.attn_norm),
        "SIZE": layer.attn_norm.size,
        "WIDTH": attn.out_norm.weight.numel(),
        "HEADS": memory.state.shape[1],
        "EPS": np.array([layer.attn_norm.eps, layer.ffn_norm.eps], np.float32),
        "ATTN_SHIFT": memory.shift.data_ptr(),
        "FFN_SHIFT": slot.ffn.shift.data_ptr(),
        "HEAD": kernel.RECUR,
        "WEIGHTS": found,
    }
    return FusedDecoder(layer, slot, dtype, _memories, found, kernel, values)


def _memories(slot: StepSlot) -> tuple[Any, ...]:
    return slot.attn.shift, slot.attn.state, slot.ffn.shift


def _dense(attn: Any) -> list[Linear] | None:
    """The products that read the token and are not low-rank; None for a mixer of another kind."""
    if type(attn) is TimeMix7:
        return [attn.r, attn.k, attn.v]
    if type(attn) in (TimeMix5, TimeMix6):
        return [attn.r, attn.k, attn.v] + ([] if attn.g is None else [attn.g])
    return None


def _weights(attn: Any, ffn: Any, dense: list[Linear], short: bool) -> Weights | None:
    """All products of a layer in the kernel's order; None where it does not take one of them."""
    gate = [] if type(ffn) is ChannelMix7 else [ffn.r]
    plain = [*dense, attn.o, ffn.up, *gate]
    if any(type(product) is not Linear for product in (*plain, ffn.down)):
        return None
    halves = _halves(attn)
    down = stored((ffn.down,), fits_by_inputs) or stored((ffn.down,))
    parts = [stored(dense), stored(plain[len(dense) :]), down]
    parts += [stored(group, _lies_so) for group in halves]
    if any(part is None for part in parts):
        return None
    reading, rest, last, *low = [part or [] for part in parts]
    # Before those that read the token stands what makes their inputs, after them what goes on.
    after = [*plain[len(dense) :], ffn.down]
    products = [*halves[0], *dense, *halves[1], *halves[2], *after]
    found = [*low[0], *reading, *low[1], *low[2], *rest, *last]
    return Weights(products, found, short)


def first_values_stage(provider: Layer, last: Tensor, dtype: torch.dtype) -> Stage | None:
    """The stage that makes RWKV-7's side stream of a residual stream in this dtype; None where the
    kernel does not take the layer that provides it. last: what that layer saw last, (1, C)."""
    attn: Any = provider.attn
    found = stored([attn.v]) if type(attn) is TimeMix7 and type(attn.v) is Linear else None
    if found is None or last.dtype is not dtype or not last.is_contiguous():
        return None
    norm = provider.attn_norm
    values: dict[str, Value] = {
        "KIND": dtype_kind(dtype),
        "NORM": kind_of_norm(norm),
        "SIZE": norm.size,
        "TABLE": np.stack([*scaled(norm), vector(attn.mix_v)]),
        "EPS": np.array([norm.eps], np.float32),
        "SHIFT": last.data_ptr(),
    }
    # As it is: where a token enters another way, no product of this one would compare a copy.
    weights = values["WEIGHTS"] = Weights([attn.v], found, short=False)
    return Stage(weights, _kernel("token.first_values"), values)


def _halves(attn: Any) -> tuple[list[Half], list[Half], list[Half]]:
    """The low-rank products: those that make the inputs of what reads the token, those that read
    it, and those that go on from there."""
    if type(attn) is TimeMix7:
        firsts, seconds = [attn.w1, attn.a1, attn.g1], [attn.w2, attn.a2, attn.g2]
        if not attn.config.provides_v_first:
            firsts, seconds = [*firsts, attn.v1], [*seconds, attn.v2]
        return [], [_laid(x)[0] for x in firsts], [_laid(x)[0] for x in seconds]
    if type(attn) is TimeMix5:
        return [], [], []
    by_letter = dict(zip(ORDER, _laid(attn.mix2), strict=True))
    shares = [*_laid(attn.mix1), *(by_letter[letter] for letter in _LETTERS)]
    return shares, _laid(attn.w1), _laid(attn.w2)


def _laid(parameter: Tensor) -> list[Half]:
    """A parameter (R, C), or each part of one (n, R, C), as a product (C, R). One that lies where
    it was is the same tensor, for by that its copy in 16 bits is found."""
    known: list[Half] | None = _turned.get(parameter)
    parts = parameter.detach()
    if known is not None and _is_at(known[0].weight, parts):
        return known
    made = [Half(x.t()) for x in (parts.unbind(0) if parts.dim() == 3 else [parts])]
    _turned[parameter] = made
    return made


def _is_at(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors begin at the same place, with numbers of the same kind."""
    return one.data_ptr() == other.data_ptr() and one.dtype is other.dtype


def _lies_so(weight: Tensor) -> bool:
    """Whether a kernel takes a half as it lies."""
    return fits_by_inputs(weight, least=0)


def _of_7(layer: Layer, slot: StepSlot) -> dict[str, Value]:
    """What the kernel of RWKV-7 takes of a layer beside what it shares with the other."""
    attn: Any = layer.attn
    ffn: Any = layer.ffn
    provides = attn.config.provides_v_first
    mixes = [attn.mix_r, attn.mix_k, attn.mix_v, attn.mix_w, attn.mix_a, attn.mix_g]
    mixes += [] if provides else [attn.mix_v]
    own = {"W0": attn.w0, "A0": attn.a0, "K_K": attn.k_k, "K_A": attn.k_a}
    own |= {} if provides else {"V0": attn.v0}
    bonus = attn.r_k
    return {
        "LOW": 3 if provides else 4,
        "TABLE": _table(layer, [vector(x) for x in (ffn.mix_k, *mixes)]),
        "RECURRENCE": _recurrence(layer, slot, bonus, {key: _row(x) for key, x in own.items()}),
    }


def _of_5_and_6(layer: Layer, slot: StepSlot) -> dict[str, Value]:
    """What the kernel of RWKV-5 and 6 takes of a layer beside what it shares with the other."""
    attn: Any = layer.attn
    ffn: Any = layer.ffn
    dynamic, gated = type(attn) is TimeMix6, attn.g is not None
    letters = (*_LETTERS, "x") if dynamic else attn.letters
    shares = [getattr(attn, f"mix_{letter}") for letter in letters]
    mixes = [vector(x) for x in (ffn.mix_k, ffn.mix_r, *shares)]
    shape = attn.heads, attn.head_dim
    if dynamic:
        bonus, decay = attn.bonus, attn.w0
    else:  # those of a head, where its channels have none of their own
        bonus = attn.bonus.float().view(attn.heads, -1).expand(shape)
        bonus = bonus.exp() if attn.log_bonus else bonus
        decay = torch.exp(-torch.exp(attn.decay.float())).view(attn.heads, -1).expand(shape)
        mixes = [1 - mix for mix in mixes]  # of the token itself
    return {
        "GATED": int(gated),
        "DYNAMIC": int(dynamic),
        "DECAY": _row(decay),
        "TABLE": _table(layer, mixes),
        "RECURRENCE": _recurrence(layer, slot, bonus, {"IS_DECAY": int(not dynamic)}),
    }


def _table(layer: Layer, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Vectors (n, C): both norms, then `rows`."""
    return np.stack([*scaled(layer.attn_norm), *scaled(layer.ffn_norm), *rows])


def _row(x: Tensor) -> np.ndarray:
    """A vector in fp32, in one piece."""
    return np.ascontiguousarray(vector(x)).reshape(-1)


def _recurrence(layer: Layer, slot: StepSlot, bonus: Tensor, values: dict[str, Value]) -> Entries:
    attn: Any = layer.attn
    norm, state = attn.out_norm, slot.attn.state
    eps = attn.config.group_norm_eps if type(attn) is TimeMix7 else attn.group_norm_eps
    shared: dict[str, Value] = {
        "SIZE": state.shape[2],
        "STATE": state.data_ptr(),
        "EPS": np.array([eps], np.float32),
        "NORM_WEIGHT": _row(norm.weight),
        "NORM_BIAS": _row(norm.bias),
        "BONUS": _row(bonus),
    }
    return Entries(_kernel("token.matrix_state"), shared | values)
