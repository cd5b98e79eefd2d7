"""RWKV-7 "Goose": time mixing (a matrix state with a delta rule) and channel mixing.

Source: Peng et al., "RWKV-7 Goose with Expressive Dynamic State Evolution" (arXiv 2503.14456), and
the formulas of the published implementation. Axes: B batch, T tokens, C channels, H heads, D head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laminogram.stack import kernels
from laminogram.stack.cache import StateSlot, state_dtype
from laminogram.stack.config import ChannelMix7Config, TimeMix7Config
from laminogram.stack.context import V_FIRST, Context
from laminogram.stack.linear import Linear, linear
from laminogram.stack.mixers.heads import add_heads
from laminogram.stack.mixers.matrix_state import (
    GroupNormParameters,
    first_state,
    initial_state,
)
from laminogram.stack.mixers.recurrence import token_by_token
from laminogram.stack.mixers.shift import moved, previous, product_dtype
from laminogram.stack.norms import relu_squared_
from laminogram.stack.taps import Taps

_LEAST_DECAY = 0.3
"""What 64 of a chunk can be multiplied up to in float32 (0.27 could); the model's own are 0.545 at
least."""
_SLOWEST_DECAY = math.exp(-0.5)


class TimeMix7(nn.Module):
    """`attn_in (B, T, C) -> attn_out (B, T, C)`; sites r, w, k, v, a, g, state, pattern, wkv, z.

    Layer 0 provides the side stream `v_first`; every other layer mixes it into its values.
    """

    mix_r: nn.Parameter
    mix_w: nn.Parameter
    mix_k: nn.Parameter
    mix_v: nn.Parameter
    mix_a: nn.Parameter
    mix_g: nn.Parameter

    def __init__(self, config: TimeMix7Config, size: int) -> None:
        super().__init__()
        self.config = config
        for name in ("r", "w", "k", "v", "a", "g"):
            self.register_parameter(f"mix_{name}", nn.Parameter(torch.empty(size)))
        self.w0, self.w1, self.w2 = _low_rank(size, config.decay_rank)
        self.a0, self.a1, self.a2 = _low_rank(size, config.a_rank)
        if not config.provides_v_first:
            self.v0, self.v1, self.v2 = _low_rank(size, config.v_rank)
        self.g1 = nn.Parameter(torch.empty(size, config.gate_rank))
        self.g2 = nn.Parameter(torch.empty(config.gate_rank, size))
        self.k_k, self.k_a = nn.Parameter(torch.empty(size)), nn.Parameter(torch.empty(size))
        self.r_k = nn.Parameter(torch.empty(config.num_attention_heads, config.head_dim))
        self.r, self.k = Linear(size, size), Linear(size, size)
        self.v, self.o = Linear(size, size), Linear(size, size)
        self.out_norm = GroupNormParameters(size)
        self.initial_state = initial_state(
            config.initial_state, config.num_attention_heads, config.head_dim
        )

    def new_slot(
        self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> StateSlot:
        shift = torch.zeros(batch, self.k_k.shape[0], device=device, dtype=dtype)
        state = self._first_state(batch, device, state_dtype(dtype))
        return StateSlot(shift, state.detach().clone())  # a cache is no way back for a gradient

    def _first_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        shape = (batch, self.config.num_attention_heads, self.config.head_dim)
        return first_state(self.initial_state, shape, device=device, dtype=dtype)

    def first_values(self, h: Tensor, last: Tensor | None) -> Tensor:
        """The side stream `v_first` (B, T, H, D) from this layer's input and shift."""
        return self._heads(self.v(moved(h, previous(h, last), self.mix_v)))

    def forward(self, h: Tensor, ctx: Context, slot: StateSlot | None, taps: Taps) -> Tensor:
        """`h (B, T, C) -> (B, T, C)`; the slot's shift and state move on by T tokens."""
        shifted = previous(h, None if slot is None else slot.shift)
        r = taps("r", self._heads(self.r(moved(h, shifted, self.mix_r))))
        w = taps("w", self._decay(moved(h, shifted, self.mix_w)))
        a = taps("a", self._heads(self._rate(moved(h, shifted, self.mix_a))))
        key = self._heads(self.k(moved(h, shifted, self.mix_k)))
        k = taps("k", key * (1 + (a - 1) * self._heads(self.k_a)))
        v = taps("v", self._values(moved(h, shifted, self.mix_v), ctx))
        g = taps("g", self._gate(moved(h, shifted, self.mix_g)))
        removal = F.normalize((key * self._heads(self.k_k)).to(w.dtype), dim=-1, eps=1e-12)
        wkv, state = self._recur(r, w, k, v, -removal, removal * a.to(w.dtype), ctx, slot, taps)
        if slot is not None:
            slot.store(ctx.last(h), state)
        wkv = taps("wkv", wkv)
        bonus = (r * k * self.r_k).to(w.dtype).sum(-1, keepdim=True) * v.to(w.dtype)
        out = self.out_norm(wkv, self.config.group_norm_eps) + bonus
        z = taps("z", out.to(product_dtype(self.o.weight)) * self._heads(g))
        if taps.wants("head_out"):
            return add_heads(z, self.o, taps)
        return self.o.wide(z.flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.config.num_attention_heads, self.config.head_dim))

    def _decay(self, x: Tensor) -> Tensor:
        raw = self.w0 + linear(torch.tanh(linear(x, self.w1.t())), self.w2.t())
        raw = raw.to(state_dtype(x.dtype))
        return self._heads(torch.exp(-_SLOWEST_DECAY * torch.sigmoid(raw)))

    def _rate(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.a0 + linear(linear(x, self.a1.t()), self.a2.t()))

    def _gate(self, x: Tensor) -> Tensor:
        return linear(torch.sigmoid(linear(x, self.g1.t())), self.g2.t())

    def _values(self, x: Tensor, ctx: Context) -> Tensor:
        v = self._heads(self.v(x))
        if V_FIRST not in ctx.streams:
            ctx.streams[V_FIRST] = v  # the alternative reading: the first step provides
            return v
        if self.config.provides_v_first:
            return v
        raw = self.v0 + linear(linear(x, self.v1.t()), self.v2.t())
        share = self._heads(torch.sigmoid(raw))
        return v + (ctx.streams[V_FIRST] - v) * share

    def _recur(
        self,
        r: Tensor,
        w: Tensor,
        k: Tensor,
        v: Tensor,
        a: Tensor,
        b: Tensor,
        ctx: Context,
        slot: StateSlot | None,
        taps: Taps,
    ) -> tuple[Tensor, Tensor]:
        known = slot.state if slot is not None else None
        state = self._first_state(r.shape[0], r.device, w.dtype) if known is None else known
        if taps.wants("pattern"):
            taps("pattern", kernels.wkv7_pattern(r, w, k, a, b))
        usual = "w" not in taps.edits or _are_usual(w)
        if usual and not taps.wants("state"):
            return kernels.wkv7(r, w, k, v, a, b, state, ctx.lengths)

        def step(at: slice, before: Tensor) -> tuple[Tensor, Tensor]:
            here = (r[:, at], w[:, at], k[:, at], v[:, at], a[:, at], b[:, at])
            return kernels.wkv7(*here, before)

        return token_by_token(step, r.shape[1], state, ctx, taps)


def _are_usual(w: Tensor) -> bool:
    """Whether chunks can divide by products of these decays, which edits made; where nobody may
    look at numbers, they are taken for odd ones."""
    if torch.compiler.is_compiling() or (w.is_cuda and torch.cuda.is_current_stream_capturing()):
        return False
    return bool(((w >= _LEAST_DECAY) & (w <= 1)).all())


def _low_rank(size: int, rank: int) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """Offset (C,) and the two factors (C, rank), (rank, C) of a low-rank product."""
    return (
        nn.Parameter(torch.empty(size)),
        nn.Parameter(torch.empty(size, rank)),
        nn.Parameter(torch.empty(rank, size)),
    )


class ChannelMix7(nn.Module):
    """`ffn_in (B, T, C) -> ffn_out (B, T, C)`: squared ReLU behind a token shift."""

    def __init__(self, config: ChannelMix7Config, size: int) -> None:
        super().__init__()
        self.mix_k = nn.Parameter(torch.empty(size))
        self.up = Linear(size, config.intermediate_size)
        self.down = Linear(config.intermediate_size, size)

    def new_slot(
        self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> StateSlot:
        return StateSlot(torch.zeros(batch, self.mix_k.shape[0], device=device, dtype=dtype))

    def forward(self, h: Tensor, ctx: Context, slot: StateSlot | None, taps: Taps) -> Tensor:
        shifted = previous(h, None if slot is None else slot.shift)
        up = self.up(moved(h, shifted, self.mix_k)).to(product_dtype(self.down.weight))
        if slot is not None:
            slot.store(ctx.last(h))  # last: for one token `shifted` is the slot's own memory
        return self.down.wide(taps("ffn_act", relu_squared_(up)))
