"""The halves of a layer for one token of several rows on a GPU: products by own kernels where these
serve (`rows_product_triton`), else the library's, and a kernel for what stands between.

Axes: B rows, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laminogram.stack.cache import StepSlot
from laminogram.stack.context import Context
from laminogram.stack.kernels.attention_row_triton import attention_row
from laminogram.stack.kernels.row_naive import RowNorm, RowProduct
from laminogram.stack.kernels.rows_product_triton import (
    add_product_rows,
    gated_rows,
    product_rows,
    serves,
)
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
    q, k, v = _products(mixer, h, slot)
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
    return _added(entering, mixer.o, x, None, slot, keep)


def mlp_half(layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, keep: bool) -> Both:
    """An MLP, gated or not."""
    mixer: Any = layer.ffn
    name, dtype = mixer.config.activation, mixer.up.weight.dtype
    (h,) = norm_rows(x[:, 0], RowNorm.of(layer.ffn_norm), dtype)
    if not mixer.config.gated:
        entering = _activated(mixer.up, h, name, slot)
    elif _in_range(h, dtype):
        product = RowProduct(mixer.gate.weight, mixer.gate.bias, None, name)
        entering = Scaled(gated_rows(h, product, _plain(mixer.up)), None)
    else:
        gate, up = _products(mixer, h, slot)
        entering = act_rows(gate, name, up, dtype)
    return _added(entering, mixer.down, x, None, slot, keep)


def time_mix4_half(layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, keep: bool) -> Both:
    """RWKV-4's time mixing."""
    mixer: Any = layer.attn
    mixes = (mixer.mix_r, mixer.mix_k, mixer.mix_v)
    norm, dtype = RowNorm.of(layer.attn_norm), mixer.r.weight.dtype
    entering = norm_rows(x[:, 0], norm, dtype, mixes, slot.attn.shift)
    r, k, v = _each(entering, (mixer.r, mixer.k, mixer.v), slot)
    z = wkv4_rows(r, k, v, mixer.decay, mixer.bonus, slot.attn.state)
    return _added(z, mixer.o, x, None, slot, keep)


def channel_mix4_half(layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, keep: bool) -> Both:
    """RWKV-4's channel mixing."""
    mixer: Any = layer.ffn
    norm, dtype = RowNorm.of(layer.ffn_norm), mixer.up.weight.dtype
    mixes = (mixer.mix_k, mixer.mix_r)
    for_k, for_r = norm_rows(x[:, 0], norm, dtype, mixes, slot.ffn.shift)
    if _in_range(for_k, dtype):
        products = RowProduct(mixer.up.weight, None, None, "relu2"), _plain(mixer.r)
        act, gate = product_rows((for_k, for_r), products, slot.counter)
        entering = Scaled(act, None)
    else:
        up, gate = _each((for_k, for_r), (mixer.up, mixer.r), slot)
        entering = act_rows(up, "relu2", None, dtype)
    return _added(entering, mixer.down, x, gate, slot, keep)


def _plain(linear: Any) -> RowProduct:
    return RowProduct(linear.weight, linear.bias)


def _in_range(h: Tensor, dtype: torch.dtype) -> bool:
    """Whether a product can activate what it gives: fp16 may be too short for a square or a gate's
    product, which `act_rows` brings into range by powers of two."""
    return dtype is torch.bfloat16 and serves(h, dtype)


def _activated(linear: Any, h: Tensor, name: str, slot: StepSlot) -> Scaled:
    """`act(h weight' + bias)` as it enters the next product."""
    dtype = linear.weight.dtype
    if _in_range(h, dtype):
        product = RowProduct(linear.weight, linear.bias, None, name)
        return Scaled(product_rows((h,), (product,), slot.counter)[0], None)
    return act_rows(_each((h,), (linear,), slot)[0], name, None, dtype)


def _each(entering: Sequence[Tensor], linears: Sequence[Any], slot: StepSlot) -> list[Tensor]:
    """Products, each of its own rows."""
    if serves(entering[0], linears[0].weight.dtype):
        return product_rows(entering, [_plain(one) for one in linears], slot.counter)
    return [one(h) for one, h in zip(linears, entering, strict=True)]


def _products(mixer: Any, h: Tensor, slot: StepSlot) -> Sequence[Tensor]:
    """The joinable products of a mixer, from the same rows."""
    if not serves(h, h.dtype):
        return tuple(mixer.products(h))
    joined = mixer.joined
    if joined is None:
        parts = [getattr(mixer, name) for name in mixer.joinable]
        return product_rows((h,) * len(parts), [_plain(one) for one in parts], slot.counter)
    (out,) = product_rows((h,), (RowProduct(joined.weight, joined.bias),), slot.counter)
    return out.split(joined.widths, -1)


def _added(
    entering: Scaled, linear: Any, x: Tensor, gate: Tensor | None, slot: StepSlot, keep: bool
) -> Both:
    z, scales = entering
    if serves(z, linear.weight.dtype) and linear.weight.is_contiguous():
        out, added = add_product_rows(
            z, scales, _plain(linear), x[:, 0], gate, slot.counter, keep=keep
        )
    else:
        out, added = add_rows(entering, _plain(linear), x[:, 0], gate, keep=keep)
    return out[:, None], None if added is None else added[:, None]
