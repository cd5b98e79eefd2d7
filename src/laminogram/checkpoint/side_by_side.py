"""Writing the tensors of one file with several threads, within a bound of memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition, Event

_IN_FLIGHT = 512_000_000
_FLUSH_SECONDS = 0.1


def write_side_by_side(
    descriptor: int,
    start: int,
    sizes: Mapping[str, int],
    chunks: Callable[[str], Iterable[memoryview]],
    workers: int,
) -> None:
    """Write the pieces `sizes`, one behind the other from byte `start`, each at its own place.

    `chunks(name)` makes a piece's bytes, in the thread that writes them. Pieces of half a gigabyte
    together are under way at a time, or a single larger one. The first error stops the rest.
    """
    places, gate = {}, _Gate(_IN_FLIGHT)
    for name, size in sizes.items():
        places[name] = start
        start += size

    def put(name: str) -> None:
        place = places[name]
        with gate.passing(sizes[name]):
            for chunk in chunks(name):
                _write_at(descriptor, chunk, place)
                place += len(chunk)

    pool, written = ThreadPoolExecutor(workers), Event()
    flusher = ThreadPoolExecutor(1)
    flushed = flusher.submit(_flush, descriptor, written)
    try:
        # Largest first, so that none of them is left over for one thread at the end.
        jobs = [pool.submit(put, name) for name in sorted(sizes, key=sizes.__getitem__)[::-1]]
        for job in jobs:
            job.result()
    finally:
        pool.shutdown(cancel_futures=True)
        written.set()
        flusher.shutdown()
    flushed.result()  # the system tells an error of the disk once, to whoever flushes first


def _flush(descriptor: int, written: Event) -> None:
    """Keep the disk busy while tensors are made, instead of waiting for all of it at the end."""
    while not written.wait(_FLUSH_SECONDS):
        os.fsync(descriptor)


def _write_at(descriptor: int, data: memoryview, place: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, place)
        data, place = data[written:], place + written


class _Gate:
    """Lets pieces through while their bytes together stay within a limit; one alone always."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._free = Condition()

    @contextmanager
    def passing(self, size: int) -> Iterator[None]:
        with self._free:
            self._free.wait_for(lambda: not self._held or self._held + size <= self._limit)
            self._held += size
        try:
            yield
        finally:
            with self._free:
                self._held -= size
                self._free.notify_all()
