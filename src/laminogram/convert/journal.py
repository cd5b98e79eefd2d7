"""What of a conversion is already on disk: finished files with size and hash, so that a killed one
goes on where it stood, and only where it is the same conversion of the same files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from laminogram.checkpoint.reading import TensorInfo, read_header
from laminogram.checkpoint.write import write_text
from laminogram.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows: two conversions to one place at once are not noticed there
    fcntl = None  # type: ignore[assignment]

_CHUNK = 1 << 24


class Digests:
    """SHA-256 of every tensor of a file while its bytes go by, and one of the file from them.

    Processors have instructions for it: it costs half of what BLAKE2b does.
    """

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}

    def watch(self, name: str, chunk: memoryview) -> None:
        """Take the next bytes of a tensor; different tensors may come from different threads."""
        digest = self._hashes.get(name)
        if digest is None:
            digest = self._hashes.setdefault(name, hashlib.sha256())
        digest.update(chunk)

    def of_file(self, infos: Mapping[str, TensorInfo]) -> str:
        """The hash of a file with these tensors, whatever their order in it."""
        whole = hashlib.sha256()
        for name in sorted(infos):
            empty = hashlib.sha256()
            one = self._hashes.get(name, empty).hexdigest()
            whole.update(f"{name}|{infos[name].dtype}|{tuple(infos[name].shape)}|{one}\n".encode())
        return whole.hexdigest()


def hash_file(path: Path, workers: int) -> str:
    """The same from a safetensors file; CheckpointError where it is damaged."""
    infos, _ = read_header(path)
    order = sorted(infos, key=lambda name: (-infos[name].dtype.itemsize, name))
    places, start = {}, path.stat().st_size - sum(infos[name].nbytes for name in order)
    for name in order:
        places[name], start = start, start + infos[name].nbytes
    digests = Digests()

    def read(name: str) -> None:
        with path.open("rb") as file:
            file.seek(places[name])
            left = infos[name].nbytes
            while left:
                chunk = file.read(min(left, _CHUNK))
                digests.watch(name, memoryview(chunk))
                left -= len(chunk)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(read, infos))
    return digests.of_file(infos)


class Journal:
    """The finished files of one conversion, in `folder`, which no other process may use."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._file, self._identity = folder / "journal.json", identity
        self.files: dict[str, dict[str, Any]] = {}

    def read(self) -> bool:
        """Take up what is written; False where it is of another conversion, or nothing."""
        try:
            held = json.loads(self._file.read_text(encoding="utf-8"))
            same = held["identity"] == self._identity
            self.files = dict(held["files"]) if same else {}
        except (OSError, ValueError, LookupError, TypeError):
            return False
        return bool(same)

    def add(self, name: str, size: int, digest: str) -> None:
        """Note a finished file."""
        self.files[name] = {"bytes": size, "sha256": digest}
        held = {"identity": self._identity, "files": self.files}
        write_text(self._file, json.dumps(held, indent=2) + "\n")

    def holds(self, path: Path, workers: int) -> bool:
        """Whether a file is finished and still what it was, by size and by hash."""
        noted = self.files.get(path.name)
        if noted is None or not path.is_file() or path.stat().st_size != noted["bytes"]:
            return False
        try:
            return hash_file(path, workers) == noted["sha256"]
        except CheckpointError:
            return False


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from converting in this folder; CheckpointError where one does."""
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CheckpointError(
                    f"another conversion is writing in {folder}; wait for it, or end it"
                ) from error
        yield
    finally:
        os.close(descriptor)
