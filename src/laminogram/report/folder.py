"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from laminogram.errors import LaminogramError


def free_folder(default: str | Path) -> Path:
    """Return `default`, or the first of `default-2`, `default-3`, ... that does not exist."""
    base = Path(default)
    path, number = base, 2
    while os.path.lexists(path):
        path, number = base.with_name(f"{base.name}-{number}"), number + 1
    return path


def refuse_existing(path: Path) -> None:
    """Raise `LaminogramError` where something stands at `path` already."""
    if os.path.lexists(path):
        raise LaminogramError(
            f"{path} exists already; name another folder, or move it away: "
            "a report is never written over another"
        )


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, renamed to `path` when the block ends without error.

    On an error the half-written folder is removed and nothing stands at `path`. What the file
    system refuses (a full disk, no permission) is raised as `LaminogramError`.
    """
    refuse_existing(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        working = path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")
        working.mkdir()
    except OSError as error:
        raise LaminogramError(f"cannot make a folder at {path}: {error.strerror}") from error
    try:
        yield working
        refuse_existing(path)
        working.rename(path)
    except OSError as error:
        raise LaminogramError(f"cannot write the report to {path}: {error.strerror}") from error
    finally:
        if working.exists():
            shutil.rmtree(working, ignore_errors=True)
