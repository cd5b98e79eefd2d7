"""ALiBi: attention that falls off linearly with distance, by a slope of each head's own.

Source: Press et al., "Train Short, Test Long" (arXiv 2108.12409), and the slopes of its release for
numbers of heads that are no power of two. Axes: B batch, T tokens, H heads, S key positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def slopes(heads: int) -> list[float]:
    """One positive slope a head: a geometric series; beyond a power of two every second one of the
    next power's series."""
    power = 1 << (heads.bit_length() - 1)
    first = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return first + [2 ** (-4 * (2 * head + 1) / power) for head in range(heads - power)]


def penalty(positions: Tensor, columns: int, heads: int) -> Tensor:
    """What is added to the scores of queries at `positions` (1|B, T): (1|B, H, T, S) in fp32, zero
    at the query's own place."""
    keys = torch.arange(columns, device=positions.device)
    distance = (keys - positions[:, None, :, None]).float()
    # Filled on the device: a captured step may not copy from the host.
    slope = torch.stack([torch.full((), s, device=positions.device) for s in slopes(heads)])
    return distance * slope[:, None, None]
