"""One layer for one token of each row on a GPU: for one row four or five fused kernels instead of
dozens; for several see `rows_decode`.

What a mixer does between two sites is one kernel here, so the sites inside are hidden; those
around the mixers (`SHOWN`) can be read all the same. Anything else that is tapped, an edit, a
packed weight or a block equation other than pre-norm takes the usual path.

Axes: C channels, H heads, K key heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from laminogram.stack.cache import AttentionSlot, BlockSlot, StateSlot, StepSlot
from laminogram.stack.config import (
    AttentionConfig,
    ChannelMix4Config,
    ChannelMix7Config,
    LayerConfig,
    MLPConfig,
    TimeMix4Config,
    TimeMix7Config,
)
from laminogram.stack.context import V_FIRST, Context
from laminogram.stack.hooks import has_hooked_mixer
from laminogram.stack.kernels.attention_row_triton import attention_row
from laminogram.stack.kernels.matvec import lies_by_inputs
from laminogram.stack.kernels.row_naive import RowNorm, RowProduct, RowShift
from laminogram.stack.kernels.row_triton import (
    INTERPRETED,
    add_back,
    can_activate,
    gated,
    project,
    time_mix4,
)
from laminogram.stack.kernels.skip_triton import add_back_skipping
from laminogram.stack.kernels.wkv4_triton import triton_missing
from laminogram.stack.kernels.wkv7_row_triton import LowRank, time_mix7_head, time_mix7_in
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.rows_decode import has_halves, one_layer
from laminogram.stack.skipping import SQUARED
from laminogram.stack.taps import Taps

if TYPE_CHECKING:
    from laminogram.stack.layer import Layer

SHOWN = frozenset({"resid_pre", "attn_out", "resid_mid", "ffn_out", "resid_post"})
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

Half = Callable[["Layer", Tensor, Context, StepSlot, bool], tuple[Tensor, Tensor | None]]
"""From a layer and the residual to the residual after one mixer and, if wanted, what it added."""


def decoded(layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, taps: Taps) -> Tensor | None:
    """`Layer.forward` of one token a row, `x (B, 1, C)`, or None where it must go the usual way."""
    if not is_one_token(x, ctx) or not _can_show(taps) or not serves(layer, x, ctx, slot):
        return None
    if x.shape[0] > 1:
        return one_layer(layer, x, ctx, slot, taps)
    x = taps("resid_pre", x)
    x, added = _HALVES[type(layer.config.attn)](layer, x, ctx, slot, taps.wants("attn_out"))
    if added is not None:
        taps("attn_out", added)
    x = taps("resid_mid", x)
    x, added = _HALVES[type(layer.config.ffn)](layer, x, ctx, slot, taps.wants("ffn_out"))
    if added is not None:
        taps("ffn_out", added)
    return taps("resid_post", x)


def is_one_token(x: Tensor, ctx: Context) -> bool:
    """Whether `x` is one token of each row on a GPU, and nothing differentiated or compiled."""
    return (
        x.shape[1] == 1
        and (x.is_cuda or INTERPRETED)
        and ctx.lengths is None
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and triton_missing() is None
    )


def _can_show(taps: Taps) -> bool:
    """Whether nothing hidden is tapped, and no edit is made."""
    return not taps.edits and taps.reads <= SHOWN


def serves(layer: Layer, x: Tensor, ctx: Context, slot: StepSlot) -> bool:
    """Whether a layer's kernels take one token of these rows, and nobody waits for a mixer to be
    called."""
    config = layer.config
    known = type(config.attn) in _HALVES and type(config.ffn) in _HALVES
    if x.shape[0] > 1:
        known = has_halves(config)
    return known and not has_hooked_mixer(layer) and _is_plain_throughout(layer, ctx, slot)


def has_row_kernels(config: LayerConfig) -> bool:
    """Whether layers of this configuration can be decoded by fused kernels."""
    if config.block != "pre" or type(config.ffn) not in _HALVES:
        return False
    if isinstance(config.ffn, MLPConfig) and not can_activate(config.ffn.activation):
        return False
    attn = config.attn
    if isinstance(attn, AttentionConfig):
        return not attn.alibi and attn.log_n is None and attn.qk_norm is None and attn.causal
    return type(attn) in _HALVES and config.norm.kind == "layer"


def _is_plain_throughout(layer: Layer, ctx: Context, slot: StepSlot) -> bool:
    """Whether every parameter is a plain tensor of the memory's dtype, and the memory of the kind
    that the kernels write to."""
    memory = slot.attn
    if isinstance(memory, StateSlot):
        dtype = memory.shift.dtype
        if isinstance(layer.config.attn, TimeMix7Config) and V_FIRST not in ctx.streams:
            return False
    elif type(memory) in (AttentionSlot, BlockSlot):
        dtype = memory.k.dtype
    else:
        return False
    either = layer.ffn.down if isinstance(layer.config.ffn, SQUARED) else None
    return dtype in _DTYPES and all(
        _is_plain(module, dtype) or (module is either and _is_plain(module, dtype, by_inputs=True))
        for module in layer.modules()
    )


def _is_plain(module: nn.Module, dtype: torch.dtype, *, by_inputs: bool = False) -> bool:
    table, lies = module._parameters, lies_by_inputs if by_inputs else Tensor.is_contiguous
    if isinstance(module, Linear) and "weight" not in table:
        return False  # packed
    return all(x is None or (x.dtype is dtype and lies(x)) for x in table.values())


def _product(linear: Linear, mix: Tensor | None = None, activation: str = "none") -> RowProduct:
    return RowProduct(linear.weight, linear.bias, mix, activation)


def _shift(slot: StateSlot, kind: str) -> RowShift:
    return RowShift(slot.shift, torch.empty_like(slot.shift), kind)


def _attention(
    layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, keep: bool
) -> tuple[Tensor, Tensor | None]:
    mixer: Any = layer.attn
    parts = [_product(one) for one in (mixer.q, mixer.k, mixer.v)]
    q, k, v = (part[None] for part in project(x, parts, RowNorm.of(layer.attn_norm)))
    keys = slot.attn.k
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
    )
    return add_back(z, _product(mixer.o), x, keep=keep)


def _mlp(
    layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, keep: bool
) -> tuple[Tensor, Tensor | None]:
    mixer: Any = layer.ffn
    norm, name = RowNorm.of(layer.ffn_norm), mixer.config.activation
    if mixer.config.gated:
        act = gated(x, _product(mixer.gate, activation=name), _product(mixer.up), norm)
    else:
        (act,) = project(x, [_product(mixer.up, activation=name)], norm)
    return add_back(act, _product(mixer.down), x, keep=keep)


def _time_mix4(
    layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, keep: bool
) -> tuple[Tensor, Tensor | None]:
    mixer: Any = layer.attn
    shift = _shift(slot.attn, "lerp")
    z = time_mix4(
        x,
        _product(mixer.r, mixer.mix_r),
        _product(mixer.k, mixer.mix_k),
        _product(mixer.v, mixer.mix_v),
        mixer.decay,
        mixer.bonus,
        RowNorm.of(layer.attn_norm),
        shift,
        slot.attn.state,
    )
    return add_back(z, _product(mixer.o), x, None, shift, keep=keep)


def _channel_mix4(
    layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, keep: bool
) -> tuple[Tensor, Tensor | None]:
    mixer: Any = layer.ffn
    shift = _shift(slot.ffn, "lerp")
    up = _product(mixer.up, mixer.mix_k, "relu2")
    r = _product(mixer.r, mixer.mix_r, "sigmoid")
    act, gate = project(x, [up, r], RowNorm.of(layer.ffn_norm), shift)
    return _after_squares(act, mixer.down, x, slot, gate, shift, keep)


def _after_squares(
    act: Tensor,
    down: Linear,
    x: Tensor,
    slot: StepSlot,
    gate: Tensor | None,
    shift: RowShift,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """The product after a squared ReLU, without the rows of zeros where the weight is laid so."""
    if lies_by_inputs(down.weight):
        return add_back_skipping(act, _product(down), x, slot.counter, gate, shift, keep=keep)
    return add_back(act, _product(down), x, gate, shift, keep=keep)


def _time_mix7(
    layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, keep: bool
) -> tuple[Tensor, Tensor | None]:
    mixer: Any = layer.attn
    shift = _shift(slot.attn, "moved")
    products = (
        _product(mixer.r, mixer.mix_r),
        _product(mixer.k, mixer.mix_k),
        _product(mixer.v, mixer.mix_v),
    )
    own = mixer.config.provides_v_first
    ranks = (
        LowRank(mixer.mix_w, mixer.w1, mixer.w2, mixer.w0),
        LowRank(mixer.mix_a, mixer.a1, mixer.a2, mixer.a0),
        None if own else LowRank(mixer.mix_v, mixer.v1, mixer.v2, mixer.v0),
        LowRank(mixer.mix_g, mixer.g1, mixer.g2),
    )
    rkv, sums = time_mix7_in(x, products, ranks, RowNorm.of(layer.attn_norm), shift)
    group = mixer.out_norm
    z = time_mix7_head(
        rkv,
        sums,
        ranks,
        mixer.k_k,
        mixer.k_a,
        mixer.r_k,
        RowNorm("layer", group.weight, group.bias, mixer.config.group_norm_eps),
        None if own else ctx.streams[V_FIRST],
        slot.attn.state,
        slot.counter(mixer.config.num_attention_heads, x.device),
    )
    return add_back(z, _product(mixer.o), x, None, shift, keep=keep)


def _channel_mix7(
    layer: Layer, x: Tensor, ctx: Context, slot: StepSlot, keep: bool
) -> tuple[Tensor, Tensor | None]:
    mixer: Any = layer.ffn
    shift = _shift(slot.ffn, "moved")
    up = _product(mixer.up, mixer.mix_k, "relu2")
    (act,) = project(x, [up], RowNorm.of(layer.ffn_norm), shift)
    return _after_squares(act, mixer.down, x, slot, None, shift, keep)


_HALVES: dict[type, Half] = {
    AttentionConfig: _attention,
    TimeMix4Config: _time_mix4,
    TimeMix7Config: _time_mix7,
    MLPConfig: _mlp,
    ChannelMix4Config: _channel_mix4,
    ChannelMix7Config: _channel_mix7,
}
