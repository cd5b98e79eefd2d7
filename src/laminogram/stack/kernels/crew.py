"""Compiled work whose pieces threads share, one piece after the other: see `token/crew.py`, which
is imported when first needed.

The threads are those that torch keeps (`team`). Others of our own would be woken in a tenth of a
millisecond at every token, and where there is a core for each of torch's threads and no more, stand
in line behind them: after an operation those look for the next one for milliseconds.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType

import torch

from . import team


@cache
def numba_missing() -> str | None:
    """Why products are left to torch, as a sentence; None where the kernels can be used."""
    if importlib.util.find_spec("numba") is None:
        return "the package `numba` is not installed; it comes with laminogram[cpu]."
    try:
        kernels()
    except (ImportError, RuntimeError) as error:  # too new a numpy, nowhere to keep its cache
        return f"numba does not work here: {error}"
    return None


@cache
def kernels() -> ModuleType:
    """The compiled kernels; compiling takes seconds once, and is kept on disk."""
    return importlib.import_module(".token.crew", __package__)


def lead(way: int, *given: int) -> None:
    """Have one thread go a way, the address of a compiled `void(address of the job)` that finds in
    the job what is `given`, and the others of torch's threads take shares of what it hands out."""
    threads = torch.get_num_threads()
    job = kernels().new_job(way, given, threads)
    team.together(kernels().WORK_ADDRESS, job.ctypes.data, threads)
