"""Rows of JSON in a file that grows: what was finished is known after a kill."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read(*files: Path) -> list[dict[str, Any]]:
    """The rows of the files, of those that are there; a line torn by a kill counts for nothing."""
    found = []
    for file in files:
        for line in file.read_text().splitlines() if file.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def append(file: Path, row: dict[str, Any]) -> None:
    """Add a row at the end, on the disk when this returns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        torn = stream.tell() and stream.seek(-1, os.SEEK_END) >= 0 and stream.read() != b"\n"
        stream.write(b"\n" * bool(torn) + json.dumps(row).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
