"""What this device can do, measured: reading memory, and the products of given shapes.

A limit is taken in the same run as the row it belongs to, on the same tensors' sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from benchmarks.timing import Work, interleave
from laminogram.stack.kernels.matvec import fits, matvec

_READ_BYTES = {"cpu": 1 << 28, "cuda": 1 << 32}


def seconds(work: Work, *, rounds: int = 5, warmup: int = 2, repeat: int = 1) -> float:
    """The least time of `work`: a limit is what was reached once."""
    times = interleave({"it": work}, rounds=rounds, warmup=warmup, repeat=repeat)
    return times.minimum("it")


def read_rate(device: str, dtype: torch.dtype = torch.float32) -> float:
    """Bytes a second at which memory is read once, of a tensor that fits no cache.

    On a GPU half of what a copy moves, read and written, since that is faster than any one sum. On
    a CPU the fastest of several ways: one long stream a thread, as a sum reads, does not keep
    memory busy; rows side by side do, asked for ahead still more.
    """
    if device == "cuda":
        x = torch.empty(_READ_BYTES["cuda"] // 4, device=device).normal_()
        y = torch.empty_like(x)
        return 2 * x.nbytes / seconds(lambda: y.copy_(x), repeat=10)
    x = torch.ones(_READ_BYTES["cpu"] // dtype.itemsize, dtype=dtype)
    return x.nbytes / min(map(seconds, _readings(x)))


def _readings(x: Tensor) -> Iterator[Work]:
    """Ways to read a vector on a CPU once."""
    rows, row = x.view(-1, 1024), torch.ones(1024, dtype=x.dtype)
    yield lambda: x.sum()
    yield lambda: torch.mv(rows, row)
    if fits(rows):
        yield lambda: matvec(row, rows)


def reading(nbytes: int, device: str, dtype: torch.dtype = torch.float32) -> float:
    """Seconds to read that many bytes once."""
    return nbytes / read_rate(device, dtype)


def products(shapes: Iterable[tuple[int, int, int, int]], device: str, dtype: torch.dtype) -> float:
    """Seconds of `count` products (rows x inputs) by (inputs x outputs), each shape
    `(count, rows, inputs, outputs)`, done by torch one after the other and nothing else."""
    total = 0.0
    for count, rows, inputs, outputs in shapes:
        x = torch.randn(rows, inputs, device=device, dtype=dtype)
        w = torch.randn(outputs, inputs, device=device, dtype=dtype) / inputs**0.5
        repeat = 20 if device == "cuda" else 1
        total += count * seconds(lambda x=x, w=w: x @ w.T, repeat=repeat)
    return total


def link_rate(megabytes: int = 512) -> float:
    """Bytes a second from the GPU to pinned host memory."""
    x = torch.empty(megabytes << 20, dtype=torch.uint8, device="cuda")
    y = torch.empty(megabytes << 20, dtype=torch.uint8, pin_memory=True)
    return x.nbytes / seconds(lambda: y.copy_(x, non_blocking=True))
