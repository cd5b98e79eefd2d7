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

import numpy as np
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
    patterns = torch.empty(len(values), dtype=torch.int32)
    center = _near_mean(values)
    found: list[tuple[Tensor, Tensor]] = []

    def part(rows: slice) -> None:
        here = values[rows]
        extremes, sums = here[:1].repeat(2, 1), center.new_zeros(4, len(center))
        _run("summary", here, here.view(torch.int32), center, extremes, sums, patterns[rows])
        found.append((extremes, sums))

    _in_parts(part, len(values))
    extremes, sums = (torch.stack(parts) for parts in zip(*found))
    low, high = extremes[:, 0].amin(0), extremes[:, 1].amax(0)
    return Summary(low, high, center, sums.sum(0), patterns.view(torch.float32))


def _near_mean(values: Tensor) -> Tensor:
    """The mean (C,) of every 32nd row at least, fp64. It lies within the root of 32 standard
    deviations of the mean of all, so that the fourth power loses three of fp64's sixteen digits at
    the worst."""
    sample = values[:: max(1, min(32, len(values) // 16))]
    return sample.mean(0, dtype=torch.float64)


def cells(values: Tensor, shift: int, size: int) -> tuple[Tensor, Tensor]:
    """How many values have which leading bits, all but the last `shift` of their float32 pattern
    without its sign: (`size`,) int32; and how many are zero."""
    patterns = values.view(torch.int32).flatten().numpy().view(np.uint32)
    found: list[Tensor] = []
    zeros: list[int] = []

    def part(places: slice) -> None:
        counts = torch.zeros(size, dtype=torch.int32)
        zeros.append(_loops().cells(patterns[places], shift, counts.numpy()))
        found.append(counts)

    _in_parts(part, len(patterns))
    total = found[0]
    for counts in found[1:]:
        total += counts
    return total, torch.tensor(sum(zeros))


@cache
def _loops() -> ModuleType:
    return importlib.import_module("laminogram.probe.statistics._passes_numba")


def _run(name: str, *tensors: Tensor) -> None:
    getattr(_loops(), name)(*(x.numpy() for x in tensors))


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="statistics")


def _in_parts(work: Callable[[slice], Any], length: int) -> None:
    """Do `work` on equal slices of `range(length)`, one a thread of torch's number."""
    number = torch.get_num_threads()
    ends = [length * i // number for i in range(number + 1)]
    parts = [slice(start, stop) for start, stop in pairwise(ends) if stop > start]
    others = [_threads(number - 1).submit(work, part) for part in parts[1:]]
    work(parts[0])
    for other in others:
        other.result()
