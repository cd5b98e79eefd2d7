"""One pass over a batch's values for all statistics, compiled, where numba is there.

In torch every operation is a pass of its own, through memory where the values fit no cache. What
`compiled` does not take, the statistics do in torch. In the midst of a forward, whose products
leave nothing in the caches, a call into torch takes some ten microseconds: here are few.

Axes: N rows, C channels, J bins.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laminogram.stack.kernels.crew import numba_missing

_LEAST = 1 << 16
"""Values below which torch is as fast."""
_NO_BOUNDS = np.zeros(1, np.int32)
_MOMENTS = ("mean", "rest", "s2", "s3", "s4", "min", "max")
"""The lines that `join` writes."""


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
    Where it was wanted: of every threshold the number (C,) of |x| above it, int64; and `bins`
    (1 + J,), int64: how many values are zero, and how many others lie in each bin of `bounds`.
    """

    finite: bool
    moments: dict[str, Tensor]
    largest: Tensor
    above: dict[float, Tensor]
    bounds: np.ndarray | None
    bins: Tensor


def summary(values: Tensor, wanted: Wanted) -> Summary:
    """One pass over values (N, C)."""
    loops, x = _loops(), values.numpy()
    patterns, number, channels = x.view(np.uint32), *x.shape
    bounds = _NO_BOUNDS if wanted.bounds is None else wanted.bounds
    binned = wanted.bounds is not None
    thresholds = np.array(wanted.thresholds, np.float32)
    parts = _parts(number)
    moments = np.empty((len(_MOMENTS), channels))
    loops.near_mean(x, max(1, min(32, number // 16)), moments[0])
    extremes = np.empty((len(parts), 2, channels), np.float32)
    sums = np.empty((len(parts), 4, channels))
    largest = np.empty(number, np.uint32)
    above = np.empty((len(parts), len(thresholds), channels), np.int32)
    tables = np.empty((len(parts), loops.TABLES, loops.CELLS * binned), np.int32)
    bins = np.empty((len(parts), len(bounds) * binned), np.int64)
    work: list[tuple[Any, ...]] = []
    for i, rows in enumerate(parts):
        always = (x[rows], patterns[rows], moments[0], extremes[i], sums[i], largest[rows])
        work.append((*always, thresholds, above[i], bounds, tables[i], bins[i]))
    _each(loops.summarise, work)
    finite = loops.join(number, moments, extremes, sums, above, bins)
    counts = torch.from_numpy(above[0]).long()
    return Summary(
        finite,
        dict(zip(_MOMENTS, torch.from_numpy(moments).unbind(), strict=True)),
        torch.from_numpy(largest.view(np.float32)),
        dict(zip(wanted.thresholds, counts, strict=True)),
        wanted.bounds,
        torch.from_numpy(bins[0]),
    )


def reaching(values: Tensor, largest: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Where in values (N, C) with the `largest` (N,) |x| of each row those lie that can be among
    the `k` largest: rows and channels."""
    sizes = largest.numpy()
    few = len(sizes) <= k
    floor = np.float32(0) if few else np.partition(sizes, len(sizes) - k)[-k]
    rows, channels = _loops().reaching(values.numpy(), sizes, floor)
    return rows, channels


@cache
def _loops() -> ModuleType:
    return importlib.import_module("laminogram.probe.statistics._passes_numba")


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="statistics")


def _parts(length: int) -> list[slice]:
    """Equal slices of `range(length)`, one a thread of torch's number."""
    number = torch.get_num_threads()
    ends = [length * i // number for i in range(number + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends) if stop > start]


def _each(loop: Callable[..., Any], work: list[tuple[Any, ...]]) -> None:
    """Run a compiled loop with each set of arguments, one a thread. They are made before the
    first thread starts: whatever a thread does in Python, the others wait for."""
    others = [_threads(len(work) - 1).submit(loop, *one) for one in work[1:]]
    loop(*work[0])
    for other in others:
        other.result()
