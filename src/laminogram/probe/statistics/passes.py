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
    """What one pass found.

    Of every channel (C,): the smallest and largest value, fp32, and the sums (4, C) of the first
    four powers of the distance from `center`, fp64; of every row (N,) the largest |x|. Where it was
    wanted: of every threshold the number (C,) of |x| above it, int64; how many values lie in each
    bin (J,), int64, and how many are zero.
    """

    low: Tensor
    high: Tensor
    center: Tensor
    sums: Tensor
    largest: Tensor
    above: dict[float, Tensor]
    bounds: np.ndarray | None
    bins: Tensor
    zeros: int


def summary(values: Tensor, wanted: Wanted) -> Summary:
    """One pass over values (N, C). Where one is not finite, neither is the first sum of its
    channel."""
    loops, x = _loops(), values.numpy()
    patterns, channels = x.view(np.uint32), x.shape[1]
    bounds = _NO_BOUNDS if wanted.bounds is None else wanted.bounds
    thresholds = np.array(wanted.thresholds, np.float32)
    parts = _parts(len(x))
    center = loops.near_mean(x[:: max(1, min(32, len(x) // 16))])
    extremes = x[[part.start for part in parts], None].repeat(2, axis=1)
    sums = np.zeros((len(parts), 4, channels))
    largest = np.empty(len(x), np.uint32)
    above = np.zeros((len(parts), len(thresholds), channels), np.int32)
    tables = np.empty((len(parts), loops.TABLES, loops.CELLS if len(bounds) > 1 else 0), np.int32)
    bins = np.empty((len(parts), len(bounds) - 1), np.int64)
    work: list[tuple[Any, ...]] = []
    for i, rows in enumerate(parts):
        always = (x[rows], patterns[rows], center, extremes[i], sums[i], largest[rows])
        work.append((*always, thresholds, above[i], bounds, tables[i], bins[i]))
    zeros = sum(_each(loops.summarise, work))
    return Summary(
        torch.from_numpy(extremes[:, 0].min(0)),
        torch.from_numpy(extremes[:, 1].max(0)),
        torch.from_numpy(center),
        torch.from_numpy(sums.sum(0)),
        torch.from_numpy(largest.view(np.float32)),
        dict(zip(wanted.thresholds, torch.from_numpy(above.sum(0, np.int64)), strict=True)),
        wanted.bounds,
        torch.from_numpy(bins.sum(0)),
        zeros,
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


def _each(loop: Callable[..., Any], work: list[tuple[Any, ...]]) -> list[Any]:
    """What a compiled loop gives for each set of arguments, one a thread. They are made before the
    first thread starts: whatever a thread does in Python, the others wait for."""
    others = [_threads(len(work) - 1).submit(loop, *one) for one in work[1:]]
    return [loop(*work[0]), *(other.result() for other in others)]
