"""A recording in a folder: in shards, so that memory stays bounded and a stopped run goes on.

`index.json` holds the request and the division into shards, and is written before the first. A
shard is finished when its file exists under its name: files get their names only when they are
complete, so a process that dies at any moment leaves nothing that could be taken for a shard, and
several processes can fill one folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from laminogram.probe.gram import FORMAT, Gram, runs
from laminogram.probe.store import StoreError, read_metadata, sweep, write_json

_INDEX = "index.json"
_FORMAT = "laminogram-grams/1"


class GramFolder:
    """The grams of many documents, one file for each `shard_size` of them.

    A sequence of grams that are read when asked for: `len(folder)`, `folder[i]`, iteration. Row j
    of shard i is document i * shard_size + j of the `documents` there are.
    """

    def __init__(
        self, path: Path, request: dict[str, Any], documents: int, shard_size: int
    ) -> None:
        self.path = path
        self.request = request
        self.documents = documents
        self.shard_size = shard_size
        self.fingerprint = fingerprint(request, documents, shard_size)

    @classmethod
    def create_or_resume(
        cls,
        path: str | PathLike[str],
        request: Mapping[str, Any],
        documents: int,
        shard_size: int,
    ) -> GramFolder:
        """A new folder for this request, or the one that an earlier run of it began.

        request: JSON values that decide what is recorded (sites, steps, plan, the hashes of weights
        and tokens, ...). Raises StoreError if the folder holds something else, saying in what the
        requests differ.
        """
        if documents < 1 or shard_size < 1:
            raise ValueError(
                f"documents and shard_size must be at least 1, not {documents} and {shard_size}"
            )
        folder = cls(Path(path), _canonical(request), documents, shard_size)
        if folder.path.exists() and not folder.path.is_dir():
            raise StoreError(f"{folder.path} is a file; a recording needs a folder")
        if (folder.path / _INDEX).exists():
            begun = cls.open(path)
            differences = _differences(begun._wish(), folder._wish())
            if differences:
                raise StoreError(
                    f"{folder.path} holds the recording of another request: "
                    f"{'; '.join(differences)}. Use another folder, or remove this one"
                )
            sweep(folder.path)
            return folder
        folder.path.mkdir(parents=True, exist_ok=True)
        sweep(folder.path)
        strangers = [entry.name for entry in folder.path.iterdir() if entry.suffix != ".tmp"]
        if strangers:
            raise StoreError(
                f"{folder.path} is not empty and holds no recording (found "
                f"{', '.join(sorted(strangers)[:3])}): use a new folder"
            )
        wish = folder._wish()
        content = {"format": _FORMAT, "fingerprint": folder.fingerprint, **wish}
        write_json(folder.path / _INDEX, content)
        return folder

    @classmethod
    def open(cls, path: str | PathLike[str]) -> GramFolder:
        """A folder to read. Raises StoreError if there is none."""
        index = Path(path) / _INDEX
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise StoreError(f"{path} holds no recording: it has no {_INDEX}") from error
        except ValueError as error:
            raise StoreError(f"{index} is damaged: {error}") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise StoreError(f"{index} is not of the format {_FORMAT}")
        folder = cls(Path(path), content["request"], content["documents"], content["shard_size"])
        if folder.fingerprint != content["fingerprint"]:
            raise StoreError(f"{index} was changed: its fingerprint does not fit its request")
        return folder

    def _wish(self) -> dict[str, Any]:
        return {
            "request": self.request,
            "documents": self.documents,
            "shard_size": self.shard_size,
        }

    def shard(self, index: int) -> Path:
        """The file of a shard, written or not."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no shard {index}; there are {len(self)}, from 0")
        return self.path / f"shard-{index:05d}.safetensors"

    def rows(self, index: int) -> slice:
        """The documents of a shard."""
        start = index * self.shard_size
        return slice(start, min(start + self.shard_size, self.documents))

    def pending(self) -> list[tuple[int, slice]]:
        """The shards still to be recorded, with the documents of each."""
        return [(i, self.rows(i)) for i in range(len(self)) if not self._finished(i)]

    @property
    def complete(self) -> bool:
        """Whether every shard is there."""
        return not self.pending()

    def _finished(self, index: int) -> bool:
        path = self.shard(index)
        if not path.exists():
            return False
        # A file that is there but unreadable, or of another recording, was put there by something
        # else than `write`; it is an error and no reason to overwrite it.
        found = read_metadata(path, FORMAT)
        if found.get("fingerprint") != self.fingerprint or found.get("shard") != str(index):
            raise StoreError(f"{path} belongs to another recording, or to another place in it")
        return True

    def write(self, index: int, gram: Gram) -> None:
        """Store a shard; afterwards it counts as finished."""
        path, rows = self.shard(index), self.rows(index)
        expected = rows.stop - rows.start
        if gram.tokens.shape[0] != expected:
            raise ValueError(
                f"shard {index} is of {expected} documents, {rows.start} to {rows.stop - 1}; the "
                f"gram has {gram.tokens.shape[0]} rows"
            )
        gram.save(path, fingerprint=self.fingerprint, shard=str(index))

    def __len__(self) -> int:
        return -(-self.documents // self.shard_size)

    def __getitem__(self, index: int) -> Gram:
        index = index + len(self) if index < 0 else index
        if not self._finished(index):
            raise StoreError(
                f"shard {index} of {self.path} is not recorded yet: run the same recording again "
                "to finish it"
            )
        return Gram.load(self.shard(index))

    def __iter__(self) -> Iterator[Gram]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        pending = [index for index, _ in self.pending()]
        state = f"pending: {runs(pending)}" if pending else "complete"
        return (
            f"GramFolder of {self.documents} documents in {len(self)} shards of "
            f"{self.shard_size} at {self.path}, {state}"
        )


def fingerprint(request: Mapping[str, Any], documents: int, shard_size: int) -> str:
    """SHA-256, in hexadecimal, of a request and its division into shards."""
    text = json.dumps([request, documents, shard_size], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request as it is read back from JSON. Raises ValueError naming a field that has none."""
    for key, value in request.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the request's {key!r} is not a JSON value: {error}") from error
    canonical: dict[str, Any] = json.loads(json.dumps(dict(request)))
    return canonical


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    """In what two JSON values differ, field by field."""
    if isinstance(there, dict) and isinstance(here, dict):
        found: list[str] = []
        for key in sorted(there.keys() | here.keys()):
            inner = key if name in ("", "request") else f"{name}.{key}"
            found += _differences(there.get(key), here.get(key), inner)
        return found
    if there == here:
        return []
    return [f"{name} is {json.dumps(there)} there and {json.dumps(here)} here"]
