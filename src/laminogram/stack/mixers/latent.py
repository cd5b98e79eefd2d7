"""Multi-head latent attention: the keys and values of all heads from one narrow latent a token.

The cache holds the latents alone. Several tokens at once have their keys and values formed from
them, head by head; for one token it is cheaper to bring the query into the space of the latents and
the answer out of it (the up-projections change places with the sum over positions), so that past
tokens are never formed.

Source: DeepSeek-V2 (arXiv 2405.04434). Axes: B batch, T tokens, C channels, H heads, Dk and Dv
sizes of a head's keys and values, R rank of the latent, L = R + turned channels, S key positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laminogram.stack.cache import LatentSlot
from laminogram.stack.config import LatentAttentionConfig
from laminogram.stack.context import Context, mask_key
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.heads import add_heads
from laminogram.stack.norms import Norm
from laminogram.stack.rope import turn
from laminogram.stack.taps import Taps


class LatentAttention(nn.Module):
    """`attn_in (B, T, C) -> attn_out (B, T, C)`; sites q, latent, k, v, pattern, z, head_out."""

    def __init__(self, config: LatentAttentionConfig, size: int, rope_index: int) -> None:
        super().__init__()
        self.config, self.rope_index, self.mask_key = config, rope_index, mask_key(config)
        heads, rank = config.num_attention_heads, config.kv_lora_rank
        if config.q_lora_rank is None:
            self.q = Linear(size, heads * config.qk_head_dim)
        else:
            self.q_a = Linear(size, config.q_lora_rank, bias=config.bias)
            self.q_a_norm = Norm(config.norm, config.q_lora_rank)
            self.q_b = Linear(config.q_lora_rank, heads * config.qk_head_dim)
        self.kv_a = Linear(size, config.latent_size, bias=config.bias)
        self.kv_a_norm = Norm(config.norm, rank)
        self.kv_b = Linear(rank, heads * (config.qk_nope_head_dim + config.v_head_dim))
        self.o = Linear(heads * config.v_head_dim, size, bias=config.bias)
        self.scale = config.qk_head_dim**-0.5 if config.scale is None else config.scale

    def new_slot(
        self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> LatentSlot:
        shape = (batch, 1, capacity, self.config.latent_size)
        return LatentSlot(torch.zeros(shape, device=device, dtype=dtype))

    def forward(self, h: Tensor, ctx: Context, slot: LatentSlot | None, taps: Taps) -> Tensor:
        """`h (B, T, C) -> (B, T, C)`; latents join the slot."""
        q = taps("q", self._queries(h, ctx))
        latent = taps("latent", self._latent(h, ctx))
        if slot is not None:
            slot.extend(latent, ctx.start, ctx.positions)
        z = taps("z", self._attend(q, latent, ctx, slot, taps))
        if taps.wants("head_out"):
            return add_heads(z, self.o, taps)
        return self.o.wide(z.flatten(2))

    def _attend(
        self, q: Tensor, latent: Tensor, ctx: Context, slot: LatentSlot | None, taps: Taps
    ) -> Tensor:
        """What each head answers (B, T, H, Dv), on the shortest path that has what is tapped."""
        packed = not isinstance(self.kv_b.weight, Tensor)
        formed = packed or q.shape[1] > 1 or taps.wants("k", "v", "pattern")
        if slot is not None and slot.k is None and not formed:
            return self._absorbed(q, slot.latent[:, :, : ctx.columns], ctx)
        keys, values = self._keys_and_values(latent, ctx, slot, taps)
        if taps.wants("pattern"):
            return self._explicit(q, keys, values, ctx, taps)
        return self._fused(q, keys, values, ctx)

    def _queries(self, h: Tensor, ctx: Context) -> Tensor:
        """(B, T, H, Dk): the turned channels last, as in the keys."""
        config = self.config
        wide = self.q(h) if config.q_lora_rank is None else self.q_b(self.q_a_norm(self.q_a(h)))
        q = wide.unflatten(-1, (config.num_attention_heads, config.qk_head_dim))
        own, turned = q.split((config.qk_nope_head_dim, config.qk_rope_head_dim), -1)
        return torch.cat((own, turn(turned, *ctx.rope[self.rope_index])), -1)

    def _latent(self, h: Tensor, ctx: Context) -> Tensor:
        """(B, T, L): the normed latent, and the turned channels that the keys share."""
        rank, shared = self.config.kv_lora_rank, self.config.qk_rope_head_dim
        low, turned = self.kv_a(h).split((rank, shared), -1)
        turned = turn(turned.unsqueeze(2), *ctx.rope[self.rope_index]).squeeze(2)
        return torch.cat((self.kv_a_norm(low), turned), -1)

    def _expand(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (B, S, H, Dk) and values (B, S, H, Dv) of latents (B, S, L)."""
        config = self.config
        low, turned = latent.split((config.kv_lora_rank, config.qk_rope_head_dim), -1)
        both = self.kv_b(low).unflatten(-1, (config.num_attention_heads, -1))
        own, values = both.split((config.qk_nope_head_dim, config.v_head_dim), -1)
        turned = turned.unsqueeze(2).expand(-1, -1, config.num_attention_heads, -1)
        return torch.cat((own, turned), -1), values

    def _keys_and_values(
        self, latent: Tensor, ctx: Context, slot: LatentSlot | None, taps: Taps
    ) -> tuple[Tensor, Tensor]:
        """Those of all S positions, (B, H, S, Dk) and (B, H, S, Dv), and of this run's tokens
        through their sites."""
        edited = "k" in taps.edits or "v" in taps.edits
        if slot is not None and slot.k is None and not edited:
            if taps.wants("k", "v"):
                self._tapped(latent, taps)
            k, v = self._expand(slot.latent[:, 0, : ctx.columns])
            return k.transpose(1, 2), v.transpose(1, 2)
        k, v = self._tapped(latent, taps)
        if slot is None:
            return k.transpose(1, 2), v.transpose(1, 2)
        if slot.k is None:
            keys, values = self._expand(slot.latent[:, 0])
            slot.k = keys.transpose(1, 2).contiguous()
            slot.v = values.transpose(1, 2).contiguous()
        slot.extend_heads(k, v, ctx.start, ctx.positions)
        return slot.k[:, :, : ctx.columns], slot.v[:, :, : ctx.columns]  # type: ignore[index]

    def _tapped(self, latent: Tensor, taps: Taps) -> tuple[Tensor, Tensor]:
        """Keys and values of this run's tokens, through their sites."""
        k, v = self._expand(latent)
        return taps("k", k), taps("v", v)

    def _fused(self, q: Tensor, keys: Tensor, values: Tensor, ctx: Context) -> Tensor:
        mask, causal = ctx.masks[self.mask_key]
        z = F.scaled_dot_product_attention(
            q.transpose(1, 2), keys, values, attn_mask=mask, is_causal=causal, scale=self.scale
        )
        return z.transpose(1, 2)

    def _explicit(
        self, q: Tensor, keys: Tensor, values: Tensor, ctx: Context, taps: Taps
    ) -> Tensor:
        """The same product with its weights in sight: softmax in fp32, `pattern @ v == z`."""
        scores = (q.transpose(1, 2) @ keys.transpose(2, 3)) * self.scale
        allowed = ctx.allowed(self.mask_key)
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        pattern = wide.masked_fill(~allowed, float("-inf")).softmax(-1)
        pattern = taps("pattern", pattern, allowed)
        return (pattern.to(values.dtype) @ values).transpose(1, 2)

    def _absorbed(self, q: Tensor, latents: Tensor, ctx: Context) -> Tensor:
        """The answer (B, 1, H, Dv) of one token to latents (B, 1, S, L), all heads reading one."""
        config = self.config
        up = self.kv_b.weight.unflatten(0, (config.num_attention_heads, -1))  # (H, Dn + Dv, R)
        up_k, up_v = up.split((config.qk_nope_head_dim, config.v_head_dim), 1)
        own, turned = q.split((config.qk_nope_head_dim, config.qk_rope_head_dim), -1)
        query = torch.cat((torch.einsum("bthd,hdr->bthr", own, up_k), turned), -1)
        mask, _ = ctx.masks[self.mask_key]
        read = F.scaled_dot_product_attention(
            query,
            latents,
            latents[..., : config.kv_lora_rank],
            attn_mask=mask,
            scale=self.scale,
        )
        return torch.einsum("bthr,hvr->bthv", read, up_v)
