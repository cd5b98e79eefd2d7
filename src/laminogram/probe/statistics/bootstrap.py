"""Weights of documents for resampling, from a hash: so intervals stream and merge too.

The unit of resampling is the document, because tokens of one text are not independent. A replicate
of the Poisson bootstrap (Oza and Russell 2001; Chamandy et al. 2012) counts a document as often as
a draw from Poisson(1) says. Here the draw is a hash of (document, replicate): whoever meets the
document, on whatever device and in whatever order, gives it the same weight.

Axes: P variants (all documents, two halves, then R replicates), D documents.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.statistics.base import Statistic
from laminogram.probe.statistics.rows import Rows

ALL, HALVES, REPLICATES = 0, slice(1, 3), slice(3, None)
"""Where the first axis of resampled numbers holds what: all documents, two halves of them (whose
difference is what a comparison finds where there is nothing to find), and the replicates."""

MOST = 9
"""No document counts more often: a Poisson(1) draw beyond it comes once in nine million."""

_BITS = 62  # of the hash that are compared with the Poisson distribution


def variant_weights(documents: Tensor, replicates: int) -> Tensor:
    """How often each document counts in each variant, (3 + replicates, D) float64.

    documents: ids (D,), any device. Row 0 is 1; rows 1 and 2 are 0 or 1 and add up to 1.
    """
    numbers = torch.arange(replicates + 1, device=documents.device)
    hashed = _hash(_hash(documents.long())[None, :] ^ (numbers[:, None] * 2 + 1))
    half = hashed[:1] & 1
    draws = torch.bucketize(hashed[1:] & ((1 << _BITS) - 1), _cumulated(documents.device))
    whole = torch.ones_like(half)
    return torch.cat([whole, half, 1 - half, draws]).to(torch.float64)


def interval(variants: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of numbers (P, ...) over their replicates: (low, high), each (...).

    Ranks are those of R + 1 equal steps, so few replicates widen it rather than narrow it; beyond
    the first and last replicate nothing is extrapolated. A replicate that is not finite (none of
    its documents had a value) is left out.
    """
    if not 0 < level < 1:
        raise ConfigError(f"a confidence level lies between 0 and 1, not at {level}")
    draws = np.asarray(variants[REPLICATES], dtype=np.float64)
    number = np.isfinite(draws).sum(0)
    draws = np.sort(np.where(np.isfinite(draws), draws, np.nan), axis=0)  # NaN comes last
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        rank = np.clip(share * (number + 1) - 1, 0, np.maximum(number - 1, 0))
        below = np.floor(rank).astype(np.int64)
        above = np.minimum(below + 1, np.maximum(number - 1, 0))
        if not len(draws):
            ends.append(np.full(number.shape, np.nan))
            continue
        low, high = (np.take_along_axis(draws, at[None], 0)[0] for at in (below, above))
        ends.append(low + (rank - below) * (high - low))
    return ends[0], ends[1]


class Resampled(Statistic):
    """Sums over documents, once for each variant: a statistic with `replicates` as an option.

    Its states and results have the variants first (`ALL`, `HALVES`, `REPLICATES`). Adding up needs
    no whole documents: a text in two parts has the same weights in both.
    """

    addressed = True

    def __init__(self, replicates: int = 64) -> None:
        super().__init__()
        if replicates < 0:
            raise ConfigError(f"the number of replicates must not be negative, as {replicates} is")
        self.replicates = int(replicates)

    def options(self) -> dict[str, Any]:
        """The number of replicates."""
        return {"replicates": self.replicates}

    def weights(self, rows: Rows) -> Tensor:
        """The weights (P, B) of the batch's documents."""
        return variant_weights(rows.groups[0], self.replicates)

    @staticmethod
    def tokens(rows: Rows) -> Tensor:
        """The tokens (B,) of the batch's documents, float64."""
        ids, index = rows.groups
        tokens = torch.zeros(len(ids) + 1, dtype=torch.float64, device=ids.device)
        return tokens.index_add_(0, index, torch.ones_like(index).double())[:-1]

    def counted(self, rows: Rows) -> Tensor:
        """The values of each variant and channel that count, (P, C) int32."""
        ids, index = rows.groups
        channels = rows.values.shape[1]
        if rows.valid is None:
            found = self.tokens(rows)[:, None].expand(-1, channels)
        else:
            counts = torch.zeros(len(ids) + 1, channels, dtype=torch.int32, device=ids.device)
            for part in rows.slices():
                counts.index_add_(0, index[part], rows.valid[part].int())
            found = counts[:-1].to(torch.float64)
        return (self.weights(rows) @ found).int()


@cache
def _cumulated(device: torch.device) -> Tensor:
    """P(draw <= k) for k = 0 .. MOST - 1, as integers of the hash's range."""
    shares = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(MOST)])
    return torch.tensor([int(share * (1 << _BITS)) for share in shares], device=device)


def _hash(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), in wrapping int64."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _shifted(x: Tensor, places: int) -> Tensor:
    """A shift to the right that fills with zeros; torch's own repeats the sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)
