"""A histogram of |x| on a logarithmic scale, with fixed bins.

16 bins an octave from 2**-40 to 2**40. Bin edges lie at 2**(j/16), rounded to 8 binary places of
their octave, so that the bin of a value follows from the leading bits of its float32 pattern:
integer arithmetic, the same on every device and for every batch size, where a logarithm would
round differently here and there. Counts therefore merge to the same bits.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.statistics.base import State, Statistic
from laminogram.probe.statistics.passes import Wanted
from laminogram.probe.statistics.rows import Rows

BINS_PER_OCTAVE = 16
LOWEST, HIGHEST = -40, 40
LEVELS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999)
"""The quantiles that `result()` holds."""

_PLACES = 8
_SHIFT = 23 - _PLACES  # float32 keeps 23 bits after the leading one
_CELLS = 0x7F800000 >> _SHIFT  # the patterns of infinity and NaN begin here
_ALL_CELLS = (0x7FFFFFFF >> _SHIFT) + 1


@cache
def _edge_cells() -> tuple[int, ...]:
    """The leading bits of every bin edge, one more than there are bins."""
    steps = [round(2 ** (_PLACES + j / BINS_PER_OCTAVE)) for j in range(BINS_PER_OCTAVE)]
    one = 1 << _PLACES
    cells = [
        (127 + octave) * one + step - one for octave in range(LOWEST, HIGHEST) for step in steps
    ]
    return (*cells, (127 + HIGHEST) * one)


@cache
def edges() -> np.ndarray:
    """The edges of the bins, float64 (bins + 1,): bin j holds edges[j] <= |x| < edges[j + 1]."""
    patterns = np.asarray(_edge_cells(), dtype=np.int32) << _SHIFT
    values = patterns.view(np.float32).astype(np.float64)
    values.flags.writeable = False
    return values


@cache
def _bounds(device: torch.device) -> Tensor:
    return torch.tensor([0, *_edge_cells(), _CELLS], device=device)


@cache
def _pattern_bounds() -> np.ndarray:
    """The same for a compiled pass, with the end of the last bin, that of what is not finite."""
    return np.asarray([0, *_edge_cells(), _CELLS, _ALL_CELLS], dtype=np.int32)


class LogHistogram(Statistic):
    """Counts of |x| over all tokens and channels of a site.

    `result()` gives `edges` (bins + 1,) and `counts` (bins,) int64; `zero`, `underflow` (nonzero,
    below the first edge), `overflow` (from the last edge up), `nonfinite` and `total` (the finite
    values), int64 without axes; `levels` (L,) with `quantile`, `quantile_low` and `quantile_high`
    (L,); and `median`, `median_low`, `median_high`. A quantile is the smallest value that at least
    that share of the values do not exceed; it lies in its bin, between low and high, and is stated
    as the bin's geometric middle. A bin is 4.4 per cent wide (4.1 to 4.8).
    """

    name = "histogram"

    def wanted(self) -> Wanted:
        """Counts in the bins."""
        return Wanted(bounds=_pattern_bounds())

    def reduce(self, rows: Rows) -> State:
        """Counts by leading bits, gathered into bins: one int64 tensor (bins + 4,)."""
        if rows.compiled and rows.summary.bounds is _pattern_bounds():
            return {"counts": rows.summary.bins}
        counts, zeros = _count_cells(rows)
        spans = _spans(counts)
        spans[0] -= zeros
        return {"counts": torch.cat([zeros.reshape(1), spans])}

    def combine(self, a: State, b: State) -> State:
        """Counts add."""
        return {"counts": a["counts"] + b["counts"]}

    def describe(self, state: State) -> dict[str, np.ndarray]:
        """The arrays of the class's table."""
        counts = state["counts"].numpy()
        table = {
            "edges": edges().copy(),
            "counts": counts[2:-2],
            "zero": counts[0],
            "underflow": counts[1],
            "overflow": counts[-2],
            "nonfinite": counts[-1],
            "total": counts[:-1].sum(),
            "levels": np.asarray(LEVELS),
        }
        found = np.array([_quantile(counts, level) for level in LEVELS])
        median = _quantile(counts, 0.5)
        for index, suffix in enumerate(("", "_low", "_high")):
            table[f"quantile{suffix}"] = found[:, index]
            table[f"median{suffix}"] = np.asarray(median[index])
        return {key: np.asarray(value) for key, value in table.items()}

    def quantile(self, level: float) -> tuple[float, float, float]:
        """A quantile of |x|: (estimate, low, high); the true one is in [low, high)."""
        if not 0 <= level <= 1:
            raise ConfigError(f"a quantile's level lies between 0 and 1, not at {level}")
        if not self.state:
            raise ConfigError(f"the statistic {self.name!r} has seen no tokens")
        return _quantile(self.state["counts"].cpu().numpy(), level)


def _spans(counts: Tensor) -> Tensor:
    """Counts by leading bits, added up: underflow with zeros, the bins, overflow, not finite."""
    bounds = _bounds(counts.device)
    if counts.is_cpu:
        return torch.from_numpy(np.add.reduceat(counts.numpy(), bounds.numpy(), dtype=np.int64))
    running = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return torch.cat([running[bounds], running[-1:]]).diff()


def _count_cells(rows: Rows) -> tuple[Tensor, Tensor]:
    """How many values have which leading bits, int64 (cells + 1,); and how many are zero.

    The last cell takes the rows that do not count.
    """
    values = rows.values
    # Zeros are told from tiny values in the site's own dtype.
    nonzero = values if rows.keep is None else (values != 0) | ~rows.keep[:, None]
    zeros = values.numel() - nonzero.count_nonzero()
    index = _cells_of(values)
    if rows.keep is not None:
        index = index.masked_fill(~rows.keep[:, None], _ALL_CELLS)
    return _bincount(index, _ALL_CELLS + 1)[:_ALL_CELLS], zeros


def count_signed(rows: Rows) -> Tensor:
    """The values of every document of a batch by size and sign: (B, 2 * bins + 5) int64.

    Along the last axis values rise: -inf to -2**40, the bins of negative values, what is smaller
    than the first edge on either side, the bins of positive values, 2**40 to inf. `middles` says
    what each entry stands for. What is not finite is not counted.
    """
    documents, place = rows.groups
    groups = len(documents) + 1  # the last one takes the rows that do not count
    bins = len(_edge_cells()) + 2  # with what is tiny, what is huge, what is not finite
    bin_of = _bin_of_cell(place.device)
    total = torch.zeros(2 * groups * bins, dtype=torch.int64, device=place.device)
    for part in rows.slices():
        values = rows.values[part]
        index = bin_of[_cells_of(values)]
        index += (2 * place[part, None] + (values < 0)) * bins
        total += _bincount(index, len(total))
    counts = total.view(groups, 2, bins)[:-1, :, :-1]
    positive, negative = counts[:, 0], counts[:, 1]
    tiny = negative[:, :1] + positive[:, :1]
    return torch.cat([negative[:, 1:].flip(1), tiny, positive[:, 1:]], 1)


@cache
def _bin_of_cell(device: torch.device) -> Tensor:
    """For every pattern of leading bits its bin: 0 below the first edge, the last not finite."""
    cells = torch.arange(_ALL_CELLS, device=device)
    return torch.bucketize(cells, _bounds(device), right=True) - 1


@cache
def middles(device: torch.device) -> Tensor:
    """What each entry of `count_signed` stands for: bins by their geometric middle, float64."""
    bounds = torch.from_numpy(edges().copy())
    inner = (bounds[:-1] * bounds[1:]).sqrt()
    positive = torch.cat([inner, bounds[-1:]])
    return torch.cat([-positive.flip(0), bounds.new_zeros(1), positive]).to(device)


def _cells_of(values: Tensor) -> Tensor:
    """The leading bits of every |x|, int32."""
    if values.dtype == torch.float64:
        values = _narrow(values)
    return values.contiguous().view(torch.int32).bitwise_and(0x7FFFFFFF) >> _SHIFT


def _bincount(index: Tensor, size: int) -> Tensor:
    if index.device.type == "cpu":
        return torch.bincount(index.flatten(), minlength=size)
    # bincount on a GPU waits for the largest index
    counts = torch.zeros(size, dtype=torch.int64, device=index.device)
    one = torch.ones((), dtype=torch.int64, device=index.device)
    return counts.scatter_add_(0, index.flatten().long(), one.expand(index.numel()))


def _narrow(values: Tensor) -> Tensor:
    """float64 as float32; what is finite stays finite."""
    largest = torch.finfo(torch.float32).max
    inside = values.clamp(-largest, largest)
    return torch.where(values.isfinite(), inside, values).to(torch.float32)


def _quantile(counts: np.ndarray, level: float) -> tuple[float, float, float]:
    finite = counts[:-1]
    running = np.cumsum(finite)
    if running[-1] == 0:
        return (float("nan"),) * 3
    rank = max(1, int(np.ceil(level * running[-1])))
    place = int(np.searchsorted(running, rank))
    bounds = edges()
    if place == 0:
        return 0.0, 0.0, 0.0
    if place == 1:
        return float(bounds[0]), 0.0, float(bounds[0])
    if place == len(finite) - 1:
        return float(bounds[-1]), float(bounds[-1]), float("inf")
    low, high = float(bounds[place - 2]), float(bounds[place - 1])
    return float(np.sqrt(low * high)), low, high
