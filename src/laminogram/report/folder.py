"""Folders that appear whole or not at all."""

from __future__ import annotations

import json
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


def refuse_existing(path: Path, force: bool = False) -> None:
    """Raise `LaminogramError` where something stands at `path` already.

    With `force` a folder that an earlier run wrote, one with its manifest, may be replaced.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise LaminogramError(
            f"{path} exists already; name another folder, or move it away: "
            "a report is never written over another"
        )
    if not _is_report(path):
        raise LaminogramError(f"{path} is no report of laminogram: move it, it is not replaced")


def _is_report(path: Path) -> bool:
    if path.is_symlink():
        return False
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and str(manifest.get("kind", "")).startswith("laminogram")


@contextmanager
def new_folder(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path`, renamed to `path` when the block ends without error.

    On an error the half-written folder is removed, and what stood at `path` stands there still.
    With `force` an earlier report is replaced at the end. What the file system refuses (a full
    disk, no permission) is raised as `LaminogramError`.
    """
    refuse_existing(path, force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        working = path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")
        working.mkdir()
    except OSError as error:
        raise LaminogramError(f"cannot make a folder at {path}: {error.strerror}") from error
    try:
        yield working
        refuse_existing(path, force)
        _put(working, path)
    except OSError as error:
        raise LaminogramError(f"cannot write the report to {path}: {error.strerror}") from error
    finally:
        if working.exists():
            shutil.rmtree(working, ignore_errors=True)


def _put(working: Path, path: Path) -> None:
    """Rename `working` to `path`; an older report goes only once the new one stands."""
    if not path.exists():
        working.rename(path)
        return
    old = working.with_suffix(".old")
    path.rename(old)
    try:
        working.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
