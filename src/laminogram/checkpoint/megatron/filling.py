"""Filling files whose every tensor has its place: by several threads, and going on after a stop.

The files exist at their full size before the first tensor is made. A journal beside them names the
tensors whose bytes are on the disk; whoever continues writes the others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from laminogram.checkpoint.fingerprint import tensor_bytes
from laminogram.checkpoint.reading import TensorInfo
from laminogram.errors import CheckpointError

JOURNAL = "journal.jsonl"
# Bytes after which what was written is forced to the disk and noted.
_NOTED = 1 << 28

Progress = Callable[[int, int], None]


class Slot(NamedTuple):
    """A place in a file, and what of the tensor goes there."""

    file: Path
    start: int
    nbytes: int
    take: Callable[[Tensor], Tensor]


class Task(NamedTuple):
    """One whole tensor: what was announced of it, how it is made, where its parts go."""

    name: str
    info: TensorInfo
    make: Callable[[], Tensor]
    slots: tuple[Slot, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all its slots."""
        return sum(slot.nbytes for slot in self.slots)


class Journal:
    """The names of finished tensors, one a line, under a first line that says of which job."""

    def __init__(self, folder: Path, job: str) -> None:
        self.path, self.job = folder / JOURNAL, job

    def finished(self) -> set[str] | None:
        """The names noted for this job; None where there is no journal of it."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
            if not lines or json.loads(lines[0]) != {"job": self.job}:
                return None
        except (OSError, ValueError):
            return None
        names: set[str] = set()
        for line in lines[1:]:
            try:
                names.add(str(json.loads(line)))
            except ValueError:  # a stop in the middle of a line: its tensor is written again
                continue
        return names

    def begin(self) -> None:
        """Starts anew; from now on the files count as there."""
        self.path.write_text(json.dumps({"job": self.job}) + "\n", encoding="utf-8")

    def note(self, names: Iterable[str]) -> None:
        """Adds names, after their bytes were forced to the disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(name) + "\n" for name in names)
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Ends the work."""
        self.path.unlink(missing_ok=True)


def fill(
    tasks: Sequence[Task], journal: Journal, *, workers: int, progress: Progress | None = None
) -> None:
    """Writes every tensor that the journal does not name into its slots.

    workers: tensors in the making at the same time, each with memory of its own. OSError where the
    disk is full, CheckpointError where a tensor is not what was announced.
    """
    done = journal.finished() or set()
    todo = [task for task in tasks if task.name not in done]
    total = sum(task.nbytes for task in tasks)
    written = total - sum(task.nbytes for task in todo)
    waiting: list[Task] = []
    pool = ThreadPoolExecutor(workers)
    try:
        for task, _ in zip(todo, pool.map(_write, todo)):
            written += task.nbytes
            waiting.append(task)
            if progress is not None:
                progress(written, total)
            if sum(item.nbytes for item in waiting) >= _NOTED:
                _settle(waiting, journal)
        _settle(waiting, journal)
    finally:
        pool.shutdown(cancel_futures=True)


def _write(task: Task) -> None:
    tensor = task.make()
    if (tuple(tensor.shape), tensor.dtype) != task.info:
        raise CheckpointError(
            f"{task.name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}; announced were "
            f"{task.info.shape} and {task.info.dtype}"
        )
    for slot in task.slots:
        part = slot.take(tensor)
        if part.nbytes != slot.nbytes:
            raise CheckpointError(
                f"{task.name} takes {part.nbytes} bytes; its place has {slot.nbytes}"
            )
        _put(slot, part)


def _put(slot: Slot, part: Tensor) -> None:
    with slot.file.open("r+b", buffering=0) as file:
        file.seek(slot.start)
        for chunk in tensor_bytes(part):
            rest = chunk
            while len(rest):
                rest = rest[file.write(rest) or 0 :]


def _settle(waiting: list[Task], journal: Journal) -> None:
    for path in {slot.file for task in waiting for slot in task.slots}:
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    if waiting:
        journal.note(task.name for task in waiting)
    waiting.clear()
