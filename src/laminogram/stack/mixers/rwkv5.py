"""RWKV-5 "Eagle": time mixing with a matrix state and a decay that is learned.

Its channel mixing is RWKV-4's. Source: Peng et al., "Eagle and Finch: RWKV with Matrix-Valued
States and Dynamic Recurrence" (arXiv 2404.05892), and the formulas of the published implementation,
versions 5.0 to 5.2. Axes: B batch, T tokens, C channels, H heads, D head, A = H D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laminogram.stack import kernels
from laminogram.stack.cache import StateSlot, state_dtype
from laminogram.stack.config import TimeMix5Config, TimeMix6Config
from laminogram.stack.context import Context
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.heads import add_heads
from laminogram.stack.mixers.matrix_state import (
    GroupNormParameters,
    first_state,
    initial_state,
)
from laminogram.stack.mixers.recurrence import token_by_token
from laminogram.stack.mixers.shift import mixed, previous, product_dtype
from laminogram.stack.taps import Taps

Inputs = dict[str, Tensor]
"""What each product reads, (B, T, C), by the letter of the site that it makes."""


class EagleMix(nn.Module):
    """What RWKV-5 and RWKV-6 share: `attn_in (B, T, C) -> attn_out (B, T, C)` from the inputs of
    the products and the decay, which each makes in its own way.

    Sites r, k, v, g, state, pattern, wkv, z, head_out.
    """

    def __init__(self, config: TimeMix5Config | TimeMix6Config, size: int, *, gate: bool) -> None:
        super().__init__()
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.group_norm_eps = config.group_norm_eps
        width = self.heads * self.head_dim
        self.r, self.k = Linear(size, width), Linear(size, width)
        self.v, self.o = Linear(size, width), Linear(width, size)
        self.g = Linear(size, width) if gate else None
        self.out_norm = GroupNormParameters(width)
        self.initial_state = initial_state(config.initial_state, self.heads, self.head_dim)

    def new_slot(
        self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> StateSlot:
        shift = torch.zeros(batch, self.k.weight.shape[1], device=device, dtype=dtype)
        state = self._first_state(batch, device, state_dtype(dtype))
        return StateSlot(shift, state.detach().clone())  # a cache is no way back for a gradient

    def _first_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        shape = (batch, self.heads, self.head_dim)
        return first_state(self.initial_state, shape, device=device, dtype=dtype)

    def _inputs(self, h: Tensor, shifted: Tensor) -> Inputs:
        """The inputs of r, k, v, of g where there is a gate, and of w where it has one."""
        raise NotImplementedError

    def _decay(self, inputs: Inputs, dtype: torch.dtype, taps: Taps) -> Tensor:
        """The decay of each key channel, broadcast to (B, T, H, D)."""
        raise NotImplementedError

    def _bonus(self, dtype: torch.dtype) -> Tensor:
        """How much of itself a token reads, broadcast to (H, D)."""
        raise NotImplementedError

    def forward(self, h: Tensor, ctx: Context, slot: StateSlot | None, taps: Taps) -> Tensor:
        """`h (B, T, C) -> (B, T, C)`; the slot's shift and state move on by T tokens."""
        inputs = self._inputs(h, previous(h, None if slot is None else slot.shift))
        r = taps("r", self._heads(self.r(inputs["r"])))
        w = self._decay(inputs, state_dtype(h.dtype), taps)
        k = taps("k", self._heads(self.k(inputs["k"])))
        v = taps("v", self._heads(self.v(inputs["v"])))
        gate = None if self.g is None else taps("g", F.silu(self.g(inputs["g"])))
        wkv, state = self._recur(r, w, k, v, ctx, slot, taps)
        if slot is not None:
            slot.store(ctx.last(h), state)
        z = self.out_norm(taps("wkv", wkv), self.group_norm_eps)
        z = z.to(product_dtype(self.o.weight))
        z = taps("z", z if gate is None else z * self._heads(gate))
        if taps.wants("head_out"):
            return add_heads(z, self.o, taps)
        return self.o.wide(z.flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_dim))

    def _recur(
        self,
        r: Tensor,
        w: Tensor,
        k: Tensor,
        v: Tensor,
        ctx: Context,
        slot: StateSlot | None,
        taps: Taps,
    ) -> tuple[Tensor, Tensor]:
        u = self._bonus(w.dtype)
        known = None if slot is None else slot.state
        state = self._first_state(r.shape[0], r.device, w.dtype) if known is None else known
        if taps.wants("pattern"):
            taps("pattern", kernels.wkv6_pattern(r, w, k, u))
        if not taps.wants("state"):
            return kernels.wkv6(r, w, k, v, u, state, ctx.lengths)
        w = w.expand(k.shape)

        def step(at: slice, before: Tensor) -> tuple[Tensor, Tensor]:
            return kernels.wkv6(r[:, at], w[:, at], k[:, at], v[:, at], u, before)

        return token_by_token(step, r.shape[1], state, ctx, taps)


class TimeMix5(EagleMix):
    """RWKV-5's time mixing; the decay is the same for every token."""

    def __init__(self, config: TimeMix5Config, size: int) -> None:
        super().__init__(config, size, gate=config.gate)
        self.letters = "rkvg" if config.gate else "rkv"
        self.log_bonus = config.log_bonus
        for name in self.letters:
            self.register_parameter(f"mix_{name}", nn.Parameter(torch.empty(size)))
        shape = (self.heads, self.head_dim) if config.per_channel else (self.heads,)
        self.decay, self.bonus = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape))

    def _inputs(self, h: Tensor, shifted: Tensor) -> Inputs:
        return {name: mixed(h, shifted, self.get_parameter(f"mix_{name}")) for name in self.letters}

    def _decay(self, inputs: Inputs, dtype: torch.dtype, taps: Taps) -> Tensor:
        return torch.exp(-torch.exp(self.decay.to(dtype))).view(self.heads, -1)

    def _bonus(self, dtype: torch.dtype) -> Tensor:
        bonus = self.bonus.to(dtype).view(self.heads, -1)
        return bonus.exp() if self.log_bonus else bonus
