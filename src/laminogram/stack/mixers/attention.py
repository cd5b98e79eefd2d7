"""Softmax attention with grouped keys, rotary positions and an optional window.

Axes: B batch, T tokens, C channels, H heads, K key heads, D head size, S key positions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.stack.cache import AttentionSlot
from laminogram.stack.config import AttentionConfig
from laminogram.stack.context import Context, mask_key
from laminogram.stack.joined import Joining
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.heads import add_heads
from laminogram.stack.norms import Norm
from laminogram.stack.rope import turn
from laminogram.stack.taps import Taps


class Attention(Joining):
    """`attn_in (B, T, C) -> attn_out (B, T, C)`; sites q, k, v, pattern, z, head_out."""

    joinable = ("q", "k", "v")

    def __init__(self, config: AttentionConfig, size: int, rope_index: int) -> None:
        super().__init__()
        if config.window is not None and not config.causal:
            raise ConfigError("an attention window is defined for causal attention only")
        if config.alibi and not config.causal:
            raise ConfigError("slopes (ALiBi) are defined for causal attention only")
        self.config, self.rope_index = config, rope_index
        width = config.num_attention_heads * config.head_dim
        narrow = config.num_key_value_heads * config.head_dim
        self.q = Linear(size, width, bias=config.qkv_bias)
        self.k = Linear(size, narrow, bias=config.qkv_bias)
        self.v = Linear(size, narrow, bias=config.qkv_bias)
        self.o = Linear(width, size, bias=config.o_bias)
        if config.qk_norm is not None:
            self.q_norm = Norm(config.qk_norm, config.head_dim)
            self.k_norm = Norm(config.qk_norm, config.head_dim)
        self.mask_key = mask_key(config)
        self.scale = config.head_dim**-0.5 if config.scale is None else config.scale

    def new_slot(
        self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> AttentionSlot:
        shape = (batch, self.config.num_key_value_heads, capacity, self.config.head_dim)
        return AttentionSlot(
            torch.zeros(shape, device=device, dtype=dtype),
            torch.zeros(shape, device=device, dtype=dtype),
        )

    def forward(self, h: Tensor, ctx: Context, slot: AttentionSlot | None, taps: Taps) -> Tensor:
        """`h (B, T, C) -> (B, T, C)`; keys and values join the slot."""
        split = (*h.shape[:2], -1, self.config.head_dim)
        q, k, v = (x.view(split) for x in self.products(h))
        if self.config.qk_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rope_index >= 0:
            cos, sin = ctx.rope[self.rope_index]
            q, k = turn(q, cos, sin), turn(k, cos, sin)
        if self.config.log_n is not None:
            q = q * _log_n(ctx.positions, self.config.log_n).to(q.dtype)
        q, k, v = taps("q", q), taps("k", k), taps("v", v)
        if slot is None:
            keys, values = k.transpose(1, 2), v.transpose(1, 2)
        else:
            slot.extend(k, v, ctx.start, ctx.positions)
            keys, values = slot.k[:, :, : ctx.columns], slot.v[:, :, : ctx.columns]
        if taps.wants("pattern"):
            z = self._explicit(q, keys, values, ctx, taps)
        else:
            z = self._fused(q, keys, values, ctx)
        z = taps("z", z)
        if taps.wants("head_out"):
            return add_heads(z, self.o, taps)
        return self.o.wide(z.flatten(2))

    def keys_and_values(self, h: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """What `attn_in (B, T, C)` leaves for others to look at: (B, T, K, D) each."""
        split = (*h.shape[:2], -1, self.config.head_dim)
        k, v = self.k(h).view(split), self.v(h).view(split)
        if self.config.qk_norm is not None:
            k = self.k_norm(k)
        return (turn(k, *ctx.rope[self.rope_index]) if self.rope_index >= 0 else k), v

    def _fused(self, q: Tensor, keys: Tensor, values: Tensor, ctx: Context) -> Tensor:
        mask, causal = ctx.masks[self.mask_key]
        batch, tokens, heads, size = q.shape
        if tokens == 1 and not causal and not self.config.alibi:
            # The heads that share a key are the rows of one product: nothing is repeated.
            grouped = q.view(batch, keys.shape[1], -1, size)
            z = F.scaled_dot_product_attention(
                grouped, keys, values, attn_mask=mask, scale=self.scale
            )
            return z.reshape(q.shape)
        z = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            keys,
            values,
            attn_mask=mask,
            is_causal=causal,
            scale=self.scale,
            enable_gqa=keys.shape[1] != heads,
        )
        return z.transpose(1, 2)

    def _explicit(
        self, q: Tensor, keys: Tensor, values: Tensor, ctx: Context, taps: Taps
    ) -> Tensor:
        """The same product with its weights in sight: softmax in fp32, `pattern @ v == z`."""
        groups = q.shape[2] // keys.shape[1]
        keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        scores = (q.transpose(1, 2) @ keys.transpose(2, 3)) * self.scale
        allowed = ctx.allowed(self.mask_key)
        wide = scores if scores.dtype == torch.float64 else scores.float()
        penalties, _ = ctx.masks[self.mask_key]
        if self.config.alibi and penalties is not None:
            wide = wide + penalties
        pattern = wide.masked_fill(~allowed, float("-inf")).softmax(-1)
        pattern = taps("pattern", pattern, allowed)
        return (pattern.to(values.dtype) @ values).transpose(1, 2)


def _log_n(positions: Tensor, trained: int) -> Tensor:
    """The factor (B, T, 1, 1) of a query: log of its place to the base `trained`, at least 1."""
    factor = (positions + 1).float().log() / math.log(trained)
    return factor.clamp(min=1)[:, :, None, None]
