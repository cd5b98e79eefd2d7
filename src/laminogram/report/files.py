"""Files and folders that belong together and appear whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from laminogram.errors import LaminogramError

NOT_OURS = "is no report: no run of laminogram wrote it; move it away, it is not replaced"


def data_folder(path: Path) -> Path:
    """Return where the numbers of the picture `path` lie: `x.data` beside `x.html`."""
    return path.with_name(f"{path.stem}.data")


def free_file(default: str | Path) -> Path:
    """Return `default`, or the first of `x-2.html`, ... that is free, and whose data folder is."""
    base = Path(default)
    path, number = base, 2
    while os.path.lexists(path) or os.path.lexists(data_folder(path)):
        path, number = base.with_name(f"{base.stem}-{number}{base.suffix}"), number + 1
    return path


def refuse_taken(targets: Sequence[Path], force: bool) -> None:
    """Raise `LaminogramError` where a target exists; with `force`, where it must not be replaced.

    A file may be replaced, and a folder that an earlier run wrote: one with its manifest.
    """
    for path in targets:
        if not os.path.lexists(path):
            continue
        if not force:
            numbers = " (the numbers of a picture)" if path.suffix == ".data" else ""
            raise LaminogramError(
                f"{path}{numbers} exists already; name another, move it away, or replace it with "
                "--force"
            )
        if path.is_dir() and not _is_ours(path):
            raise LaminogramError(f"{path} {NOT_OURS}")


def _is_ours(folder: Path) -> bool:
    if folder.is_symlink():
        return False
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and str(manifest.get("kind", "")).startswith("laminogram")


@contextmanager
def new_files(targets: Sequence[Path], force: bool = False) -> Iterator[Path]:
    """Yield an empty folder; what the block writes there under a target's name moves to the target.

    All targets stand in one folder. With `force` what stood there is replaced, after the block has
    ended without error. On an error nothing appears and nothing is replaced; what the file system
    refuses (a full disk, no permission) is raised as `LaminogramError`.
    """
    refuse_taken(targets, force)
    parent = targets[0].parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        working = parent / f".{targets[0].name}-{secrets.token_hex(4)}.part"
        working.mkdir()
    except OSError as error:
        raise LaminogramError(f"cannot write to {parent}: {error.strerror}") from error
    try:
        yield working
        refuse_taken(targets, force)
        _move(working, targets)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LaminogramError(f"cannot write {targets[0]}: {reason}") from error
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _move(working: Path, targets: Sequence[Path]) -> None:
    """Put every target in its place, or on an error all the old ones back."""
    old = working / "replaced"
    old.mkdir()
    done: list[Path] = []
    try:
        for target in targets:
            if os.path.lexists(target):
                target.rename(old / target.name)
            done.append(target)
            (working / target.name).rename(target)
    except OSError:
        for target in reversed(done):
            if os.path.lexists(target):
                target.rename(working / target.name)
            if os.path.lexists(old / target.name):
                (old / target.name).rename(target)
        raise
