"""The halves of a layer for one token of several rows on a GPU, between the library's products.

Axes: B rows, C channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laminogram.stack.cache import StepSlot
from laminogram.stack.context import Context
from laminogram.stack.kernels.attention_row_triton import attention_row
from laminogram.stack.kernels.row_naive import RowNorm, RowProduct
from laminogram.stack.kernels.rows_triton import Scaled, act_rows, add_rows, norm_rows, wkv4_rows

if TYPE_CHECKING:
    from laminogram.stack.layer import Layer

Both = tuple[Tensor, Tensor | None]


def attention_half(layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, keep: bool) -> Both:
    """Attention for `x (B, 1, C)`: the residual after it and, if wanted, what it added."""
    mixer: Any = layer.attn
    dtype = mixer.q.weight.dtype
    (h,) = norm_rows(x[:, 0], RowNorm.of(layer.attn_norm), dtype)
    keys = slot.attn.k
    half = dtype is torch.float16
    q, k, v = mixer.products(h)
    z = attention_row(
        q,
        k,
        v,
        ctx.rope[mixer.rope_index] if mixer.rope_index >= 0 else None,
        ctx.positions,
        keys,
        slot.attn.v,
        mixer.scale,
        mixer.config.window,
        slot.counter(keys.shape[0] * keys.shape[1], keys.device),
        torch.float32 if half else dtype,
    )
    entering = act_rows(z, "none", None, dtype) if half else Scaled(z, None)
    return _added(entering, mixer.o, x, None, keep)


def mlp_half(layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, keep: bool) -> Both:
    """An MLP, gated or not."""
    mixer: Any = layer.ffn
    name, dtype = mixer.config.activation, mixer.up.weight.dtype
    (h,) = norm_rows(x[:, 0], RowNorm.of(layer.ffn_norm), dtype)
    if mixer.config.gated:
        gate, up = mixer.products(h)
        entering = act_rows(gate, name, up, dtype)
    else:
        entering = act_rows(mixer.up(h), name, None, dtype)
    return _added(entering, mixer.down, x, None, keep)


def time_mix4_half(layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, keep: bool) -> Both:
    """RWKV-4's time mixing."""
    mixer: Any = layer.attn
    mixes = (mixer.mix_r, mixer.mix_k, mixer.mix_v)
    norm, dtype = RowNorm.of(layer.attn_norm), mixer.r.weight.dtype
    for_r, for_k, for_v = norm_rows(x[:, 0], norm, dtype, mixes, slot.attn.shift)
    r, k, v = mixer.r(for_r), mixer.k(for_k), mixer.v(for_v)
    entering = wkv4_rows(r, k, v, mixer.decay, mixer.bonus, slot.attn.state)
    return _added(entering, mixer.o, x, None, keep)


def channel_mix4_half(layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, keep: bool) -> Both:
    """RWKV-4's channel mixing."""
    mixer: Any = layer.ffn
    norm, dtype = RowNorm.of(layer.ffn_norm), mixer.up.weight.dtype
    mixes = (mixer.mix_k, mixer.mix_r)
    for_k, for_r = norm_rows(x[:, 0], norm, dtype, mixes, slot.ffn.shift)
    entering = act_rows(mixer.up(for_k), "relu2", None, dtype)
    return _added(entering, mixer.down, x, mixer.r(for_r), keep)


def _added(entering: Scaled, linear: Any, x: Tensor, gate: Tensor | None, keep: bool) -> Both:
    product = RowProduct(linear.weight, linear.bias)
    out, added = add_rows(entering, product, x[:, 0], gate, keep=keep)
    return out[:, None], None if added is None else added[:, None]
