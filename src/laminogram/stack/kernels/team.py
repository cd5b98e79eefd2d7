"""The threads that torch keeps, for compiled work of our own.

Threads of another pool sleep between two tensors: to wake one takes a tenth of a millisecond, at
times two, and its core's caches hold nothing of what torch's threads just wrote. Torch's own look
for more work for some milliseconds after each operation. `GOMP_parallel` is how GCC compiles a
parallel region; the runtimes of LLVM and Intel have it too.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

_Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def together(function: int, job: int, threads: int) -> None:
    """Call `void(void *)` at an address once on each of up to so many threads, of which the
    caller's is one, with the address of a job. All have returned when this returns. Fewer threads
    than were asked for may come: the job has to be done all the same."""
    if threads == 1:
        _Work(function)(job)
    elif (parallel := _parallel()) is not None:
        parallel(function, job, threads, 0)
    else:
        _in_pool(function, job, threads)


@cache
def _parallel() -> Callable[..., Any] | None:
    """What runs a function on the threads of torch's OpenMP; None where torch has another kind, and
    in a child of a process that has used it: GCC's runtime waits there for threads that it lost."""
    if _forked:
        return None
    try:  # a library is asked together with those that it needs: torch's runtime, no other
        found = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    found.restype = None
    return found


def _in_pool(function: int, job: int, threads: int) -> None:
    others = [_pool(threads - 1).submit(_Work(function), job) for _ in range(threads - 1)]
    _Work(function)(job)
    for other in others:
        if not other.cancel():
            other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="team")


_forked = False


def _start_anew() -> None:
    """In a child, which has none of its parent's threads."""
    global _forked
    _forked = True
    _parallel.cache_clear()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
