"""What is known already, line by line in two files, so that a killed run loses nothing.

`results.jsonl` has a line for each finished (conditions, task); `answers.jsonl` one for each pack
of rows that is read while a task is under way, with what edits did there. A line is on the disk
when adding it returns, so that a power cut takes no more than a kill; one that was cut short is
dropped when the files are opened again. One process writes to a folder at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from laminogram.probe.program import Effects
from laminogram.probe.store import StoreError, sync_folder


class Ledger:
    """The two files in `folder`; with None all is kept in memory.

    StoreError for a folder that cannot be written, and for a whole line that is not ours.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._results: dict[str, dict[str, Any]] = {}
        self._answers: dict[tuple[str, str], list[Any]] = {}
        self._effects: dict[tuple[str, str], Effects] = {}
        self._folder = folder
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for line in _lines(folder / "results.jsonl"):
                self._results[line["key"]] = line
            for line in _lines(folder / "answers.jsonl"):
                if line["key"] not in self._results:
                    self._answers[line["key"], line["pack"]] = line["answers"]
                    self._effects[line["key"], line["pack"]] = line.get("effects", [])
        except OSError as error:
            raise StoreError(f"{folder} cannot be used: {error.strerror}") from error
        except (KeyError, TypeError) as error:
            raise StoreError(f"{folder} holds lines that are no results: {error}") from error

    def result(self, key: str) -> dict[str, Any] | None:
        """The finished result of a key."""
        return self._results.get(key)

    def answers(self, key: str, pack: str) -> list[Any] | None:
        """The answers of a key to a pack of rows."""
        return self._answers.get((key, pack))

    def effects(self, key: str, pack: str) -> Effects:
        """What edits did while a pack of rows was answered."""
        return self._effects.get((key, pack), [])

    def add_answers(
        self, key: str, pack: str, answers: list[Any], effects: Effects | None = None
    ) -> None:
        """Keep the answers to a pack, and what edits did meanwhile."""
        self._answers[key, pack], self._effects[key, pack] = answers, effects or []
        line = {"key": key, "pack": pack, "answers": answers}
        self._append("answers.jsonl", line | ({"effects": effects} if effects else {}))

    def add_result(self, key: str, result: Mapping[str, Any]) -> None:
        """Keep a finished result; its answers by pack are not needed any more."""
        line = {"key": key, **result}
        self._results[key] = line
        self._append("results.jsonl", line)
        for known in [known for known in self._answers if known[0] == key]:
            del self._answers[known], self._effects[known]

    def close(self) -> None:
        """Remove the answers that are part of results now."""
        if self._folder is not None and not self._answers:
            (self._folder / "answers.jsonl").unlink(missing_ok=True)

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        if self._folder is None:
            return
        path = self._folder / name
        try:
            new = not path.exists()
            with path.open("ab") as file:
                file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync_folder(self._folder)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file, which is cut where a broken last line begins."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise StoreError(f"{path}, line {number}, is damaged: {error}") from error
