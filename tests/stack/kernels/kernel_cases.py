"""Random inputs of the recurrences, as the tests of this folder share them."""

from __future__ import annotations

import torch
from torch import Tensor

Wkv4Case = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # k, v, w, u, state
Wkv6Case = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # r, w, k, v, u, state
Wkv7Case = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # r, w, k, v, a, b, state


def wkv4_case(
    seed: int,
    batch: int,
    tokens: int,
    width: int,
    *,
    spread: float = 3.0,
    dtype: torch.dtype = torch.float64,
    empty: bool = False,
) -> Wkv4Case:
    """Keys uniform in +-spread, decays log-uniform from 1e-4 to 10 per token, a state or none."""
    make = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, low: float, high: float) -> Tensor:
        return torch.rand(*shape, generator=make, dtype=torch.float64) * (high - low) + low

    k = uniform(batch, tokens, width, low=-spread, high=spread)
    v = torch.randn(batch, tokens, width, generator=make, dtype=torch.float64)
    w = -torch.exp(uniform(width, low=-9.2, high=2.3))
    u = torch.randn(width, generator=make, dtype=torch.float64)
    state = torch.stack(
        [
            torch.randn(batch, width, generator=make, dtype=torch.float64),
            uniform(batch, width, low=1.0, high=4.0),
            uniform(batch, width, low=-spread, high=spread),
        ],
        dim=1,
    )
    if empty:
        state[:, :2], state[:, 2] = 0.0, -1e30
    return k.to(dtype), v.to(dtype), w.to(dtype), u.to(dtype), state.to(dtype)


def wkv6_case(
    seed: int,
    batch: int,
    tokens: int,
    heads: int = 2,
    size: int = 4,
    *,
    mean: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Wkv6Case:
    """Decays of all sizes side by side, exp(-exp(raw)) with raw around `mean`."""
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    shape = (batch, tokens, heads, size)
    w = torch.exp(-torch.exp(mean + 3 * normal(*shape)))
    r, k, v = normal(*shape), normal(*shape), normal(*shape)
    u, state = normal(heads, size), normal(batch, heads, size, size)
    r, w, k, v, u, state = (x.to(dtype) for x in (r, w, k, v, u, state))
    return r, w, k, v, u, state


def wkv7_case(
    seed: int,
    batch: int,
    tokens: int,
    heads: int,
    size: int,
    *,
    dtype: torch.dtype = torch.float64,
    repeat: bool = False,
) -> Wkv7Case:
    """What the model can produce: w in (0.5452, 1), a = -kk, b = kk * gate.

    `repeat` gives every token the same key, the hardest system to solve.
    """
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    shape = (batch, tokens, heads, size)
    r, k, v = normal(*shape), normal(*shape), normal(*shape)
    w = torch.exp(-torch.exp(torch.tensor(-0.5)) * torch.sigmoid(3 * normal(*shape)))
    kk = torch.nn.functional.normalize(normal(*shape), dim=-1)
    gate = torch.sigmoid(2 * normal(*shape))
    if repeat:
        kk, gate, w = kk[:, :1].expand(shape), torch.ones(shape), 0.9999 + 0 * w
    state = normal(batch, heads, size, size)
    r, w, k, v, a, b, state = (
        x.to(dtype).contiguous() for x in (r, w, k, v, -kk, kk * gate, state)
    )
    return r, w, k, v, a, b, state


def worst(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value wanted (or to 1)."""
    if wanted.numel() == 0:
        return 0.0
    got, wanted = got.detach(), wanted.detach()
    return float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
