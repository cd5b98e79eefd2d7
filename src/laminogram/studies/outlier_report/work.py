"""Finished parts of a report as files, so that a run that was killed goes on where it was.

A part is one file, named after its kind and a hash of all that it follows from: weights, tokens,
conditions, options, version. It is written whole or not at all; one that cannot be read is made
again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from laminogram.probe.manifest import plain
from laminogram.probe.store import sweep, write_json
from laminogram.studies.reading import Tables


@dataclass(frozen=True, eq=False)
class Part:
    """A finished part: what it is of, its tables, and how long it took when it was made.

    kept: whether it was found finished.
    """

    kind: str
    model: str
    precision: str
    input: str
    tables: Tables
    seconds: float
    kept: bool


class Work:
    """The folder of finished parts; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)

    def part(
        self,
        kind: str,
        where: tuple[str, str, str],
        key: Mapping[str, Any],
        make: Callable[[], Tables],
    ) -> Part:
        """The part of this key, found or made; `where` is its (model, precision, input)."""
        facts = plain({"kind": kind, "where": where, "version": version("laminogram")} | dict(key))
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        path = None if self.folder is None else self.folder / f"{kind}-{digest[:32]}.json"
        known = _read(path, facts)
        if known is not None:
            return Part(kind, *where, known["tables"], float(known["seconds"]), True)
        begun = time.perf_counter()
        tables = {name: _columns(table) for name, table in make().items()}
        seconds = time.perf_counter() - begun
        if path is not None:
            # Pairs, not objects: the order of the columns is part of a table.
            pairs = {name: list(table.items()) for name, table in tables.items()}
            write_json(path, {"key": facts, "tables": pairs, "seconds": seconds})
        return Part(kind, *where, tables, seconds, False)


def _read(path: Path | None, facts: Any) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        tables = {name: dict(pairs) for name, pairs in known["tables"].items()}
        return known | {"tables": tables} if known["key"] == facts else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _columns(table: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns as lists of plain values; NaN stays NaN."""
    return {
        name: [_plain(one) for one in np.asarray(values, dtype=object).tolist()]
        if isinstance(values, np.ndarray)
        else [_plain(one) for one in values]
        for name, values in table.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping | tuple | list | np.ndarray):
        return json.dumps(plain(value), sort_keys=True)
    return value
