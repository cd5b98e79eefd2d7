"""Distributions of |x| without their scale, and how far two of them lie apart.

Widths and units differ between models, so |x| is divided by the root mean square (or the median) of
its place, and the histograms of that are compared.

Axes: D documents, P variants, K bins, S splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.evaluate.divergence import Estimate
from laminogram.probe.statistics.bootstrap import ALL, REPLICATES, interval, variant_weights
from laminogram.probe.statistics.histogram import BINS_PER_OCTAVE, LOWEST, LogHistogram

Scale = Literal["rms", "median"]
JOINED = 4
"""Bins of the streaming histogram that are one here: a quarter of an octave, 19 per cent."""
BIN_WIDTH = 2 ** (JOINED / BINS_PER_OCTAVE)
OCTAVES = 24
"""Octaves kept on either side of the scale; what lies beyond counts at the end."""
SPLITS = 64
_ENDS = 2
"""Counts of zeros and of the underflow stand before the bins, overflow and NaN behind."""


@dataclass(frozen=True, eq=False)
class Sizes:
    """What is kept of one place: counts (D, bins + 4) of |x|, sums of squares and values (D,)."""

    counts: np.ndarray
    squares: np.ndarray
    values: np.ndarray

    def scaled(self, scale: Scale) -> np.ndarray:
        """The histogram of |x| / scale of every document, (D, K): zeros, then bins of a quarter of
        an octave. The scale is one number, of all documents; it moves whole fine bins (4.4 per
        cent), which moves no more than that share of the values across an edge."""
        moved = 0
        size = self.scale(scale)
        if np.isfinite(size) and size > 0:
            moved = round(BINS_PER_OCTAVE * np.log2(size))
        fine = self.counts[:, _ENDS:-_ENDS]
        places = np.arange(fine.shape[1]) - moved + BINS_PER_OCTAVE * LOWEST
        bins = 2 * OCTAVES * BINS_PER_OCTAVE // JOINED
        joined = np.clip((places + OCTAVES * BINS_PER_OCTAVE) // JOINED, 0, bins - 1)
        found = np.zeros((len(fine), 1 + bins))
        np.add.at(found.T, 1 + joined, fine.T)
        found[:, 0] = self.counts[:, 0]
        found[:, 1] += self.counts[:, 1]
        found[:, -1] += self.counts[:, -2]
        return found

    def scale(self, scale: Scale) -> float:
        """The root mean square or the median of |x|, all documents together; NaN without any."""
        if scale == "rms":
            values = self.values.sum()
            return float(np.sqrt(self.squares.sum() / values)) if values else float("nan")
        whole = self.counts[:, :-1].sum(0)
        if not whole.sum():
            return float("nan")
        place = int(np.searchsorted(np.cumsum(whole), 0.5 * whole.sum()))
        if place < _ENDS:
            return 0.0
        return float(2.0 ** (LOWEST + (place - _ENDS + 0.5) / BINS_PER_OCTAVE))


def check_scale(scale: str) -> None:
    """ConfigError for a scale that does not exist."""
    if scale not in ("rms", "median"):
        raise ConfigError(f"sizes are scaled by 'rms' or 'median', not by {scale!r}")


def sizes_of(x: Tensor, lengths: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    """Of every row of (B, T, ...) its counts, sum of squares and number of values."""
    found = []
    for row, length in enumerate(lengths):
        real = x[row : row + 1, :length]
        histogram = LogHistogram()
        histogram.update(real)
        finite = torch.where(real.isfinite(), real, 0.0).double()
        found.append(
            {
                "counts": histogram.state["counts"].cpu().numpy(),
                "squares": np.asarray(float(finite.square().sum())),
                "values": np.asarray(int(real.isfinite().sum())),
            }
        )
    return found


def joined(rows: Mapping[int, dict[str, np.ndarray]]) -> Sizes:
    """The sizes of documents, in their order."""
    listed = [rows[number] for number in sorted(rows)]
    return Sizes(*(np.stack([one[name] for one in listed]) for name in listed[0]))


def jsd(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergences, nats, of histograms (..., K) over the same bins; nothing is
    smoothed, equal ones give exactly 0. NaN where one is empty."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = (one / one.sum(-1, keepdims=True) for one in (first, second))
        middle = (p + q) / 2
        halves = [np.where(one > 0, one * np.log(one / middle), 0.0).sum(-1) for one in (p, q)]
    empty = (first.sum(-1) == 0) | (second.sum(-1) == 0)
    found: np.ndarray = np.where(empty, np.nan, np.maximum((halves[0] + halves[1]) / 2, 0.0))
    return found


@dataclass(frozen=True)
class Shift:
    """How far two distributions lie apart, beside what there is where nothing changed.

    jsd: of all documents of both, with its interval over documents. null: of two halves of the
    documents, both of the reference, mean over splits, and the 95 % quantile over splits. crossed:
    the same splits, the second half of the other; it exceeds `null` by what the condition adds.
    Halves hold fewer and other tokens, so on the same tokens `jsd` may lie far below `null`.
    """

    jsd: Estimate
    null: float
    null_high: float
    crossed: float


def shift(first: np.ndarray, second: np.ndarray, splits: int = SPLITS, seed: int = 0) -> Shift:
    """Compare histograms (D, K) of documents; the two may have different numbers of documents.

    The interval has 200 replicates. With one document there is no interval and no null (NaN).
    """
    weights = [variant_weights(torch.arange(len(one)), 200).numpy() for one in (first, second)]
    variants = jsd(weights[0] @ first, weights[1] @ second)
    nothing = Estimate(float(variants[ALL]), float("nan"), float("nan"))
    if min(len(first), len(second)) < 2:
        return Shift(nothing, *(float("nan"),) * 3)
    generator = np.random.default_rng(seed)
    null, crossed = np.zeros(splits), np.zeros(splits)
    for number in range(splits):
        mine = _half(generator, len(first))
        # Of the same documents the complement; of others a half of their own.
        rest = ~mine if len(first) == len(second) else _half(generator, len(second))
        half = first[mine].sum(0)
        null[number] = jsd(half, first[~mine].sum(0))
        crossed[number] = jsd(half, second[rest].sum(0))
    return Shift(
        recentred(variants, float(np.log(2))),
        float(null.mean()),
        float(np.quantile(null, 0.95)),
        float(crossed.mean()),
    )


def recentred(variants: np.ndarray, most: float) -> Estimate:
    """A number (P,) that resampling biases upwards, with its percentile interval moved by the bias.

    A resampled corpus repeats documents, so divergences and alignments of it are larger than of the
    whole; the interval is moved by the median replicate's excess and kept within 0 and `most`.
    """
    value = float(variants[ALL])
    low, high = (float(end) for end in interval(variants))
    draws = variants[REPLICATES]
    known = draws[np.isfinite(draws)]
    moved = value - float(np.median(known)) if known.size else 0.0
    return Estimate(value, max(0.0, low + moved), min(most, high + moved))


def _half(generator: np.random.Generator, count: int) -> np.ndarray:
    chosen = np.zeros(count, dtype=bool)
    chosen[generator.permutation(count)[: count // 2]] = True
    return chosen
