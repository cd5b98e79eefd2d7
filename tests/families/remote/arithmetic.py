"""The operations of published decoders in fp64, written from their formulas with plain loops.

Nothing here comes from laminogram. Axes: B batch, T tokens, C channels, H heads, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def product(x: Tensor, w: Tensors, name: str) -> Tensor:
    """`x @ weight.T + bias`, the bias only where there is one."""
    out = x @ w[f"{name}.weight"].T
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, H * D) -> (B, H, T, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, lowered: Tensor | float = 0.0) -> Tensor:
    """Causal attention (B, H, T, D) -> (B, T, H * D); key head h serves H / K query heads in a row.

    `lowered` is subtracted from the scores before the softmax.
    """
    times, tokens = q.shape[1] // k.shape[1], q.shape[2]
    k, v = (torch.stack([x[:, h // times] for h in range(q.shape[1])], 1) for x in (k, v))
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) - lowered
    future = torch.ones(tokens, tokens).triu(1).bool()
    weights = scores.masked_fill(future, -torch.inf).exp()
    out = weights / weights.sum(-1, keepdim=True) @ v
    return out.transpose(1, 2).flatten(2)


def angles(tokens: int, turned: int, base: float, stretch: float = 1.0) -> Tensor:
    """The angle of each position's pairs (T, turned / 2)."""
    rows = [
        [t / stretch * base ** (-2 * pair / turned) for pair in range(turned // 2)]
        for t in range(tokens)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def turn_halves(x: Tensor, angle: Tensor) -> Tensor:
    """Pairs (j, j + R / 2) of the first R channels turned, as complex numbers."""
    half = angle.shape[-1]
    turned = torch.complex(x[..., :half], x[..., half : 2 * half]) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat((turned.real, turned.imag, x[..., 2 * half :]), -1)


def turn_neighbours(x: Tensor, angle: Tensor) -> Tensor:
    """Pairs (2j, 2j + 1) of the first R channels turned, as complex numbers."""
    turned_channels = 2 * angle.shape[-1]
    pairs = torch.view_as_complex(x[..., :turned_channels].unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)
    return torch.cat((turned, x[..., turned_channels:]), -1)


def slopes(heads: int) -> list[float]:
    """ALiBi's slopes as its release defines them: of a number that is no power of two, those of
    the power below, then every second one of the power above."""
    if heads & (heads - 1) == 0:
        first = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [first ** (head + 1) for head in range(heads)]
    power = 2 ** int(math.log2(heads))
    return slopes(power) + slopes(2 * power)[0::2][: heads - power]


def distances(tokens: int, heads: int) -> Tensor:
    """slope * (query - key), (H, T, T)."""
    places = torch.arange(tokens, dtype=torch.float64)
    return torch.tensor(slopes(heads)).double()[:, None, None] * (places[:, None] - places)
