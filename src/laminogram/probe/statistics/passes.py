"""One pass over a batch's values for all statistics, compiled, where numba is there.

In torch every operation is a pass of its own, through memory where the values fit no cache. What
`compiled` does not take, the statistics do in torch. In the midst of a forward, whose products
leave nothing in the caches, a call into torch takes some ten microseconds: here are few.

Axes: N rows, C channels, J bins.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from laminogram.stack.kernels.crew import numba_missing
from laminogram.stack.kernels.team import together

_LEAST = 1 << 16
"""Values below which torch is as fast."""
_SHARES = 2
"""Shares of the rows for each thread: enough that a slow one delays little."""
_NO_BOUNDS = np.zeros(0, np.int32)
_MOMENTS = ("mean", "rest", "s2", "s3", "s4", "min", "max")
"""The lines of what `join` writes."""


def compiled(values: Tensor) -> bool:
    """Whether the passes take these values (N, C); that they are finite is the caller's to say."""
    return (
        values.is_cpu
        and values.dtype is torch.float32
        and values.numel() >= _LEAST
        and values.is_contiguous()
        and numba_missing() is None
    )


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is to be found beside what every `Summary` has.

    thresholds: float32 numbers; bounds: where bins of |x| begin and end (J + 1,), int32, by the
    first 16 bits of a float32 pattern without its sign.
    """

    thresholds: tuple[float, ...] = ()
    bounds: np.ndarray | None = None

    @classmethod
    def union(cls, parts: Iterable[Wanted]) -> Wanted:
        """All of it; of several bounds the first."""
        parts = list(parts)
        thresholds = dict.fromkeys(t for part in parts for t in part.thresholds)
        bounds = (part.bounds for part in parts if part.bounds is not None)
        return cls(tuple(thresholds), next(bounds, None))


@dataclass(frozen=True)
class Summary:
    """What one pass found; only `finite` means anything where that is false.

    moments: the entries of a state of `Moments` but for the counts; largest (N,): |x| of each row.
    Where it was wanted: of each of the `thresholds` the number of |x| above it, `above` (K, C),
    int64; and `bins` (1 + J,), int64: how many values are zero, and how many others lie in each
    bin of `bounds`.
    """

    finite: bool
    moments: dict[str, Tensor]
    largest: Tensor
    thresholds: tuple[float, ...]
    above: Tensor
    bounds: np.ndarray | None
    bins: Tensor

    def above_each(self, thresholds: tuple[float, ...]) -> Tensor:
        """The counts (K, C) of some of the thresholds."""
        if thresholds == self.thresholds:  # nearly always, and without an operation
            return self.above
        return self.above[[self.thresholds.index(threshold) for threshold in thresholds]]


def summary(values: Tensor, wanted: Wanted) -> Summary:
    """One pass over values (N, C)."""
    loops, threads = _loops(), torch.get_num_threads()
    bounds = _NO_BOUNDS if wanted.bounds is None else wanted.bounds
    thresholds = np.array(wanted.thresholds, np.float32)
    shares = min(len(values), threads * _SHARES)
    with _tables(0 if wanted.bounds is None else threads) as tables:
        job, at, *parts = loops.prepare(values.numpy(), thresholds, bounds, tables, threads, shares)
        together(_address(), at, threads)
        moments, extremes, sums, largest, counts, bins = parts
        finite, above, all_bins = loops.join(job, moments, extremes, sums, counts, bins)
    return Summary(
        finite,
        dict(zip(_MOMENTS, torch.from_numpy(moments).unbind(), strict=True)),
        torch.from_numpy(largest),
        wanted.thresholds,
        torch.from_numpy(above),
        wanted.bounds,
        torch.from_numpy(all_bins),
    )


def first(
    values: Tensor, largest: Tensor, documents: Tensor, positions: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k values (N, C) of largest |x|, or all where there are fewer, by |x|, largest first, then
    document, position and channel: |x| and x (2, k) fp64; document, position, channel (3, k) int64.

    largest: |x| of each row (N,); documents and positions (N,) int64.
    """
    of_rows = (largest.numpy(), documents.numpy(), positions.numpy())
    numbers, places = _loops().first(values.numpy(), *of_rows, k)
    return torch.from_numpy(numbers), torch.from_numpy(places)


@cache
def _address() -> int:
    """Where the function of a thread lies."""
    return int(_loops().take_shares.address)


@cache
def _loops() -> ModuleType:
    return importlib.import_module("laminogram.probe.statistics._passes_numba")


_spare: list[np.ndarray] = []
"""Tables that nobody uses now, the last ones alone: fresh memory takes longer than the counting."""


@contextmanager
def _tables(threads: int) -> Iterator[np.ndarray]:
    """Room for so many threads to count in, all zero, as it is to be left."""
    loops = _loops()
    shape = (threads, loops.WAYS, loops.CELLS)
    try:
        tables = _spare.pop()
    except IndexError:
        tables = np.zeros(shape, np.int32)
    if len(tables) < threads:
        tables = np.zeros(shape, np.int32)
    yield tables
    _spare[:] = [tables]
