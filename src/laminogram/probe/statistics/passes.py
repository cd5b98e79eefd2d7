"""Passes over a batch's values in one compiled loop each, where numba is there.

In torch every operation is a pass of its own, through memory where the values fit no cache. What
`compiled` does not take, the statistics do in torch.

Axes: N rows, C channels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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


def extremes(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Smallest and largest value of every channel, (C,) fp32; their sum (C,) fp64; the largest |x|
    of every row (N,)."""
    channels = values.shape[1]
    patterns = torch.empty(len(values), dtype=torch.int32)
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    def part(rows: slice) -> None:
        here = values[rows]
        low, high, total = here[0].clone(), here[0].clone(), here.new_zeros(channels).double()
        _run("extremes", here, here.view(torch.int32), low, high, total, patterns[rows])
        found.append((low, high, total))

    _in_parts(part, len(values))
    low, high, total = (torch.stack(parts) for parts in zip(*found))
    return low.amin(0), high.amax(0), total.sum(0), patterns.view(torch.float32)


def powers(values: Tensor, center: Tensor) -> Tensor:
    """Sums (4, C) of the first four powers of the distance from `center` (C,), fp64."""
    found: list[Tensor] = []

    def part(rows: slice) -> None:
        sums = torch.zeros(4, values.shape[1], dtype=torch.float64)
        _run("powers", values[rows], center, sums)
        found.append(sums)

    _in_parts(part, len(values))
    return torch.stack(found).sum(0)


def cells(values: Tensor, shift: int, size: int) -> tuple[Tensor, Tensor]:
    """How many values have which leading bits, all but the last `shift` of their float32 pattern
    without its sign: (`size`,) int64; and how many are zero."""
    patterns = values.view(torch.int32).flatten().numpy().view(np.uint32)
    found: list[Tensor] = []
    zeros: list[int] = []

    def part(places: slice) -> None:
        counts = torch.zeros(size, dtype=torch.int32)
        zeros.append(_loops().cells(patterns[places], shift, counts.numpy()))
        found.append(counts)

    _in_parts(part, len(patterns))
    return torch.stack(found).sum(0, dtype=torch.int64), torch.tensor(sum(zeros))


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
