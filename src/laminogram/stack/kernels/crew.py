"""The threads that share a product with one row: see `_crew_numba`, which is imported when first
needed.

Helpers sleep between runs. One that was woken looks for work for some tenths of a millisecond after
the last product, so that within a token nobody is woken twice.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
from functools import cache
from types import ModuleType

import numpy as np
import torch

_PATIENCE = 400_000
"""Looks of a helper that finds nothing, a nanosecond or less each."""


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
    return importlib.import_module("._crew_numba", __package__)


class Crew:
    """A job in memory and the threads that take shares of it; `threads` with the caller's own."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.job = kernels().new_job()
        self._free = threading.Lock()
        self._asleep: list[threading.Event] = []
        for _ in range(threads - 1):
            threading.Thread(target=self._helper, args=(threading.Event(),), daemon=True).start()

    def _helper(self, wake: threading.Event) -> None:
        help_out = kernels().help_out
        while True:
            self._asleep.append(wake)
            wake.wait()
            wake.clear()
            help_out(self.job, _PATIENCE)

    def at_work(self) -> Shift:
        """Within it: the job to be written, helpers awake; a job without helpers where another
        thread has it."""
        return Shift(self)

    def _begin(self) -> np.ndarray | None:
        if not self._free.acquire(blocking=False):
            return None
        while self._asleep:
            self._asleep.pop().set()
        return self.job

    def _end(self) -> None:
        self._free.release()


class Shift:
    """A crew at work, for `with`: at every layer of a token, where a generator costs more."""

    def __init__(self, of: Crew) -> None:
        self._crew = of
        self._has_it = False

    def __enter__(self) -> np.ndarray:
        job = self._crew._begin()
        if job is None:
            alone: np.ndarray = kernels().new_job()
            return alone
        self._has_it = True
        return job

    def __exit__(self, *error: object) -> None:
        if self._has_it:
            self._crew._end()


_crews: dict[int, Crew] = {}


def crew() -> Crew:
    """The crew of as many threads as torch uses now."""
    threads = torch.get_num_threads()
    found = _crews.get(threads)
    if found is None:
        found = _crews[threads] = Crew(threads)
    return found


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_crews.clear)
