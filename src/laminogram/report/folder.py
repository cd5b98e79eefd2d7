"""Folders that appear whole or not at all: reports of several files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from laminogram.errors import LaminogramError
from laminogram.report.files import NOT_OURS, new_files, refuse_taken


def free_folder(default: str | Path) -> Path:
    """Return `default`, or the first of `default-2`, `default-3`, ... that does not exist."""
    base = Path(default)
    path, number = base, 2
    while os.path.lexists(path):
        path, number = base.with_name(f"{base.name}-{number}"), number + 1
    return path


def refuse_existing(path: Path, force: bool = False) -> None:
    """Raise `LaminogramError` where something stands at `path` already.

    With `force` a folder that an earlier run wrote, one with its manifest, may be replaced.
    """
    refuse_taken((path,), force)
    if os.path.lexists(path) and not path.is_dir():
        raise LaminogramError(f"{path} {NOT_OURS}")


@contextmanager
def new_folder(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends without error.

    On an error nothing is left of it, and what stood at `path` stands there still. With `force` an
    earlier report is replaced at the end. What the file system refuses (a full disk, no
    permission) is raised as `LaminogramError`.
    """
    refuse_existing(path, force)
    with new_files((path,), force) as working:
        folder = working / path.name
        folder.mkdir()
        yield folder
