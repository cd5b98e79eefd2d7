"""Passes over a batch's values in one compiled loop each, where numba is there.

In torch every operation is a pass of its own, through memory where the values fit no cache. What
`compiled` does not take, the statistics do in torch.

Axes: N rows, C channels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from laminogram.stack.kernels.crew import numba_missing

_LEAST = 1 << 16
"""Values below which torch is as fast."""


def compiled(values: Tensor) -> bool:
    """Whether the passes take these values (N, C); that they are finite is the caller's to say."""
    return (
        values.is_cpu
        and values.dtype is torch.float32
        and values.numel() >= _LEAST
        and values.is_contiguous()
        and numba_missing() is None
    )


@dataclass(frozen=True)
class Summary:
    """Of every channel (C,): the smallest and largest value, fp32, and the sums (4, C) of the first
    four powers of the distance from `center`, fp64; of every row (N,) the largest |x|."""

    low: Tensor
    high: Tensor
    center: Tensor
    sums: Tensor
    largest: Tensor


def summary(values: Tensor) -> Summary:
    """One pass over values (N, C). Where one is not finite, neither is the first sum of its
    channel."""
    center = _near_mean(values)
    parts = _parts(len(values))
    largest = torch.empty(len(values), dtype=torch.int32)
    extremes = values[[part.start for part in parts]][:, None].repeat(1, 2, 1)
    sums = center.new_zeros(len(parts), 4, len(center))
    patterns = values.view(torch.int32)
    _each(
        _loops().summary,
        [
            (values[rows], patterns[rows], center, extremes[i], sums[i], largest[rows])
            for i, rows in enumerate(parts)
        ],
    )
    low, high = extremes[:, 0].amin(0), extremes[:, 1].amax(0)
    return Summary(low, high, center, sums.sum(0), largest.view(torch.float32))


def _near_mean(values: Tensor) -> Tensor:
    """The mean (C,) of every 32nd row at least, fp64. It lies within the root of 32 standard
    deviations of the mean of all, so that the fourth power loses three of fp64's sixteen digits at
    the worst."""
    sample = values[:: max(1, min(32, len(values) // 16))]
    return sample.mean(0, dtype=torch.float64)


def cells(values: Tensor, shift: int, size: int) -> tuple[Tensor, Tensor]:
    """How many values have which leading bits, all but the last `shift` of their float32 pattern
    without its sign: (`size`,) int32; and how many are zero."""
    patterns = values.view(torch.uint32).flatten()
    parts = _parts(len(patterns))
    counts = torch.zeros(len(parts), size, dtype=torch.int32)
    work = [(patterns[places], shift, counts[i]) for i, places in enumerate(parts)]
    zeros = sum(_each(_loops().cells, work))
    return counts.sum(0, dtype=torch.int32), torch.tensor(zeros)


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
    given = [[x.numpy() if isinstance(x, Tensor) else x for x in one] for one in work]
    others = [_threads(len(work) - 1).submit(loop, *one) for one in given[1:]]
    return [loop(*given[0]), *(other.result() for other in others)]
