"""Layers for one token of several rows on a GPU: products by own kernels where these serve
(`rows_product_triton`), else the library's, and a kernel for what stands between.

What a half adds to the residual is added by whoever reads that next, also from layer to layer: a
`Stream` carries it.

Axes: B rows, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from laminogram.stack.cache import StepSlot
from laminogram.stack.config import (
    AttentionConfig,
    ChannelMix4Config,
    LayerConfig,
    MLPConfig,
    TimeMix4Config,
)
from laminogram.stack.context import Context
from laminogram.stack.kernels.attention_row_triton import attention_row
from laminogram.stack.kernels.row_naive import RowNorm, RowProduct
from laminogram.stack.kernels.rows_product_triton import (
    can_share,
    gated_rows,
    product_rows,
    serves,
    share_rows,
)
from laminogram.stack.kernels.rows_triton import (
    Scaled,
    Stream,
    Update,
    act_rows,
    add_rows,
    norm_rows,
    wkv4_rows,
)
from laminogram.stack.taps import Taps

if TYPE_CHECKING:
    from laminogram.stack.layer import Layer

Half = Callable[["Layer", Stream, Context, StepSlot], Stream]
"""From a layer and the residual to the residual after one mixer."""


def has_halves(config: LayerConfig) -> bool:
    """Whether layers of this configuration can be decoded here."""
    return type(config.attn) in _HALVES and type(config.ffn) in _HALVES


def one_layer(layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, taps: Taps) -> Tensor:
    """A layer that `has_halves`, for `x (B, 1, C)`; taps see what is around its mixers."""
    x = taps("resid_pre", x)
    for config, out, after in (
        (layer.config.attn, "attn_out", "resid_mid"),
        (layer.config.ffn, "ffn_out", "resid_post"),
    ):
        # An edit's own function may have left another order in memory.
        stream = _HALVES[type(config)](layer, Stream(x[:, 0].contiguous()), ctx, slot)
        residual, added = add_rows(stream, keep=taps.wants(out))
        if added is not None:
            taps(out, added[:, None])
        x = taps(after, residual[:, None])
    return x


def several_layers(layers: Iterable[tuple[Layer, StepSlot]], x: Tensor, ctx: Context) -> Tensor:
    """Layers one after the other, `x (B, 1, C)`, nothing between them seen."""
    stream = Stream(x[:, 0].contiguous())
    for layer, slot in layers:
        for config in (layer.config.attn, layer.config.ffn):
            stream = _HALVES[type(config)](layer, stream, ctx, slot)
    return add_rows(stream)[0][:, None]


def _attention(layer: Layer, stream: Stream, ctx: Context, slot: StepSlot) -> Stream:
    mixer: Any = layer.attn
    dtype = mixer.q.weight.dtype
    x, (h,) = norm_rows(stream, RowNorm.of(layer.attn_norm), dtype)
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
    return Stream(x, _update(entering, mixer.o))


def _mlp(layer: Layer, stream: Stream, ctx: Context, slot: StepSlot) -> Stream:
    mixer: Any = layer.ffn
    name, dtype = mixer.config.activation, mixer.up.weight.dtype
    x, (h,) = norm_rows(stream, RowNorm.of(layer.ffn_norm), dtype)
    if not mixer.config.gated:
        entering = _activated(mixer.up, h, name, slot)
    elif _in_range(h, dtype):
        product = RowProduct(mixer.gate.weight, mixer.gate.bias, None, name)
        entering = Scaled(gated_rows(h, product, _plain(mixer.up)), None)
    else:
        gate, up = _products(mixer, h, slot)
        entering = act_rows(gate, name, up, dtype)
    return Stream(x, _update(entering, mixer.down))


def _time_mix4(layer: Layer, stream: Stream, ctx: Context, slot: StepSlot) -> Stream:
    mixer: Any = layer.attn
    mixes = (mixer.mix_r, mixer.mix_k, mixer.mix_v)
    norm, dtype = RowNorm.of(layer.attn_norm), mixer.r.weight.dtype
    x, entering = norm_rows(stream, norm, dtype, mixes, slot.attn.shift)
    r, k, v = _shared(entering, (mixer.r, mixer.k, mixer.v))
    z = wkv4_rows(r, k, v, dtype, mixer.decay, mixer.bonus, slot.attn.state)
    return Stream(x, _update(z, mixer.o))


def _channel_mix4(layer: Layer, stream: Stream, ctx: Context, slot: StepSlot) -> Stream:
    mixer: Any = layer.ffn
    norm, dtype = RowNorm.of(layer.ffn_norm), mixer.up.weight.dtype
    mixes = (mixer.mix_k, mixer.mix_r)
    x, (for_k, for_r) = norm_rows(stream, norm, dtype, mixes, slot.ffn.shift)
    z, scales = _activated(mixer.up, for_k, "relu2", slot)
    # The gate's product is done with the last one: both have as many outputs, and `up` alone fills
    # the card once.
    parts, gate = _shared((z, for_r), (mixer.down, mixer.r))
    return Stream(x, Update(parts, scales, None, gate))


_HALVES: dict[type, Half] = {
    AttentionConfig: _attention,
    MLPConfig: _mlp,
    TimeMix4Config: _time_mix4,
    ChannelMix4Config: _channel_mix4,
}


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


def _update(entering: Scaled, linear: Any) -> Update:
    """What a product adds to the residual."""
    z, scales = entering
    (parts,) = _shared((z,), (linear,))
    return Update(parts, scales, linear.bias)


def _shared(entering: Sequence[Tensor], linears: Sequence[Any]) -> list[Tensor]:
    """Products of as many outputs each without their biases, each of its own rows, in parts
    (S, B, N) that whoever reads them adds up."""
    weights = [one.weight for one in linears]
    rows = zip(entering, weights, strict=True)
    if all(serves(x, weight.dtype) for x, weight in rows) and can_share(weights):
        return share_rows(entering, weights)
    return [F.linear(x, weight)[None] for x, weight in zip(entering, weights, strict=True)]
