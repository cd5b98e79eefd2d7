"""A mixture of experts: of many gated feed-forward networks each token meets a few.

Routing is dropless: what one token is given never depends on another. The fast path brings each
expert its tokens as one product, for which it must know on the host how many there are. Inside a
compiled layer or a captured graph, where nothing may depend on values, and where the site `ffn_act`
is tapped, every expert sees every token instead, and what was not routed is set to zero: that is
slower by the number of experts over those that a token meets.

Sources: Mixtral (Jiang et al., arXiv 2401.04088), DeepSeek-V2 (2405.04434) and V3 (2412.19437).
Axes: B batch, T tokens, C channels, E experts, X experts that a token meets, F width of an expert,
N = B * T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from laminogram.errors import ConfigError
from laminogram.stack.config import MLPConfig, MoEConfig
from laminogram.stack.context import Context
from laminogram.stack.linear import Linear, linear
from laminogram.stack.mixers.mlp import MLP
from laminogram.stack.mixers.shift import product_dtype
from laminogram.stack.taps import NO_TAPS, Taps

_LEAST = 1e-20
"""Keeps the sum of the chosen scores from being zero, as the published code does."""


class MoE(nn.Module):
    """`ffn_in (B, T, C) -> ffn_out (B, T, C)`; sites router, experts, ffn_act.

    Every expert is a module (`experts.{e}.gate`, `.up`, `.down`), so that its weights stay where a
    checkpoint maps them. ConfigError where the numbers of experts and groups do not fit.
    """

    in_fp32 = ("correction",)
    """Parameters that keep that precision: between close scores bf16 would choose others."""

    def __init__(self, config: MoEConfig, size: int) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.router = Linear(size, config.num_experts)
        if config.correction_bias:
            wide = torch.empty(config.num_experts, dtype=torch.float32)
            self.correction = nn.Parameter(wide, requires_grad=False)
        one = MLPConfig(
            intermediate_size=config.intermediate_size, activation=config.activation, gated=True
        )
        self.experts = nn.ModuleList(MLP(one, size) for _ in range(config.num_experts))
        if config.shared_intermediate_size is not None:
            self.shared = MLP(
                MLPConfig(
                    intermediate_size=config.shared_intermediate_size,
                    activation=config.activation,
                    gated=True,
                ),
                size,
            )
            if config.shared_gate:
                self.shared_gate = Linear(size, 1)

    def new_slot(self, *_: object) -> None:
        """A mixture of experts remembers nothing."""

    def expert(self, index: int) -> MLP:
        """Expert `index`, typed."""
        return cast(MLP, self.experts[index])

    def forward(self, h: Tensor, ctx: Context, slot: None, taps: Taps) -> Tensor:
        weights = taps("router", self._weights(h, taps))
        every = taps.wants("ffn_act") or _is_static(h)
        out = self._every_expert(h, weights, taps) if every else self._used_experts(h, weights)
        if self.config.shared_intermediate_size is not None:
            shared = self.shared(h, ctx, None, NO_TAPS).to(out.dtype)
            if self.config.shared_gate:
                shared = shared * torch.sigmoid(self.shared_gate(h)).to(out.dtype)
            out = out + shared
        return out.to(product_dtype(self.router.weight))

    def _weights(self, h: Tensor, taps: Taps) -> Tensor:
        """The weight (B, T, E) of each expert's answer, in fp32: zero where it was not chosen."""
        config = self.config
        scores = self._scores(h)
        with torch.no_grad():
            chosen = self._merit(scores).topk(config.num_experts_per_tok, dim=-1).indices
        taps("experts", chosen)
        weights = scores.gather(-1, chosen)
        if config.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + _LEAST)
        weights = weights * config.routed_scaling_factor
        return torch.zeros_like(scores).scatter(-1, chosen, weights)

    def _scores(self, h: Tensor) -> Tensor:
        weight, wide = self.router.weight, torch.promote_types(h.dtype, torch.float32)
        if self.config.router_fp32:
            raw = linear(h.to(wide), weight.to(wide))
        else:
            raw = linear(h, weight).to(wide)
        return raw.softmax(-1) if self.config.scoring == "softmax" else raw.sigmoid()

    def _merit(self, scores: Tensor) -> Tensor:
        """What experts are chosen by (..., E): scores with their correction, groups left out."""
        config = self.config
        merit = scores + self.correction.to(scores.dtype) if config.correction_bias else scores
        if config.n_group == 1:
            return merit
        groups = merit.unflatten(-1, (config.n_group, -1))
        worth = groups.topk(config.best_of_group, dim=-1).values.sum(-1)
        best = worth.topk(config.topk_group, dim=-1).indices
        out = torch.ones_like(worth, dtype=torch.bool).scatter(-1, best, False)
        return groups.masked_fill(out[..., None], float("-inf")).flatten(-2)

    def _used_experts(self, h: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum (B, T, C), in fp32 or wider, each expert reading its tokens alone."""
        rows, shares = h.flatten(0, 1), weights.flatten(0, 1).t()  # (N, C), (E, N)
        chosen = shares != 0
        counts = chosen.sum(1).tolist()
        tokens, parts = chosen.nonzero()[:, 1], shares[chosen].unsqueeze(1)  # expert by expert
        out = torch.zeros_like(rows, dtype=weights.dtype)
        for index, (own, part) in enumerate(zip(tokens.split(counts), parts.split(counts))):
            if len(own):
                expert = self.expert(index)
                answer = expert.down.wide(expert.activated(rows[own])).to(out.dtype)
                # A token is in `own` once, so the sum has one order on every device.
                out.index_add_(0, own, answer * part)
        return out.view(h.shape)

    def _every_expert(self, h: Tensor, weights: Tensor, taps: Taps) -> Tensor:
        """The same with every expert on every token, through the site `ffn_act` (B, T, E, F)."""
        chosen = (weights != 0).unsqueeze(-1).unbind(2)  # E of (B, T, 1)
        experts = [self.expert(index) for index in range(len(chosen))]
        acts: Iterable[Tensor] = (
            expert.activated(h).masked_fill(~on, 0)
            for expert, on in zip(experts, chosen, strict=True)
        )
        if taps.wants("ffn_act"):
            acts = taps("ffn_act", torch.stack(tuple(acts), 2)).unbind(2)
        out = torch.zeros_like(h, dtype=weights.dtype)
        for index, act in enumerate(acts):
            answer = experts[index].down.wide(act).to(out.dtype)
            out = out + answer * weights[..., index, None]
        return out

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MoE:
        """What `to`, `cuda`, `half` and their kind do; the correction keeps its precision."""
        before = self.correction.detach() if self.config.correction_bias else None
        super()._apply(fn, recurse)
        if before is not None and self.correction.dtype.itemsize < before.dtype.itemsize:
            kept = torch.empty_like(self.correction, dtype=before.dtype)
            if not (before.is_meta or kept.is_meta):
                kept.copy_(before)
            self.correction = nn.Parameter(kept, requires_grad=False)
        return self


def _is_static(h: Tensor) -> bool:
    """Whether this run may not ask how many tokens an expert has."""
    return torch.compiler.is_compiling() or (h.is_cuda and torch.cuda.is_current_stream_capturing())


def _check(config: MoEConfig) -> None:
    experts, groups = config.num_experts, config.n_group
    if experts % groups:
        raise ConfigError(f"{experts} experts cannot be dealt into {groups} equal groups")
    if not 1 <= config.topk_group <= groups:
        raise ConfigError(f"topk_group is {config.topk_group}; there are {groups} groups")
    if not 1 <= config.best_of_group <= experts // groups:
        raise ConfigError(
            f"a group counts by its best {config.best_of_group}, and has {experts // groups}"
        )
    reach = config.topk_group * (experts // groups)
    if not 1 <= config.num_experts_per_tok <= reach:
        raise ConfigError(
            f"num_experts_per_tok is {config.num_experts_per_tok}; a token can choose among {reach}"
        )
