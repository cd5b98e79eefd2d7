"""The archives that torch writes: a zip file whose pickle refers to uncompressed tensors beside it.

Read here without loading: a tensor is known by its place in the file until somebody maps it.
Written in two passes: first all but the tensors' bytes, then those, in any order and by any thread.
"""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laminogram.checkpoint.megatron.records import UNREADABLE, Unpickler
from laminogram.checkpoint.reading import TensorInfo
from laminogram.errors import CheckpointError

_LOCAL_HEADER = 30
_LONGEST_PICKLE = 1 << 30
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class MappedFile:
    """A file whose pages are read when they are touched, and shared until they are written to."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, path.stat().st_size

    @cached_property
    def bytes(self) -> Tensor:
        """The whole file as uint8, mapped privately."""
        return torch.from_file(str(self.path), shared=False, size=self.size, dtype=torch.uint8)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, its bytes not yet read: they begin at `start`, `stride` in elements."""

    file: MappedFile
    start: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def info(self) -> TensorInfo:
        """Its shape and dtype."""
        return TensorInfo(self.shape, self.dtype)

    def get(self) -> Tensor:
        """The tensor, mapped from its file; a copy only where its bytes are not aligned."""
        span = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride))
        count = span if all(self.shape) else 0
        raw = self.file.bytes[self.start : self.start + count * self.dtype.itemsize]
        if self.start % self.dtype.itemsize:
            raw = raw.clone()
        return raw.view(self.dtype).as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class _Storage:
    start: int
    nbytes: int
    dtype: torch.dtype | None


class _Window(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, file: MappedFile, start: int, length: int) -> None:
        self._bytes = file.bytes[start : start + length].numpy().data
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self._bytes)}[whence]
        if base + offset < 0:
            raise ValueError("a place before the beginning")
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        piece = self._bytes[self._place : self._place + len(buffer)]
        buffer[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)


def read_archive(file: MappedFile, start: int = 0, length: int | None = None) -> Any:
    """What torch saved in a file, or in a part of one, with a `StoredTensor` for every tensor.

    Nothing it contains is executed (see `records`). CheckpointError where it is damaged.
    """
    length = file.size - start if length is None else length
    try:
        if start < 0 or length < 0 or start + length > file.size:
            raise ValueError(f"bytes {start} to {start + length} of {file.size} are asked for")
        with zipfile.ZipFile(_Window(file, start, length)) as archive:
            return _Archive(file, start, archive).load()
    except UNREADABLE as error:
        raise CheckpointError(
            f"{file.path} is truncated, damaged or no archive that torch wrote "
            f"({type(error).__name__}: {str(error)[:160]})"
        ) from error


class _Archive:
    """One archive while its pickle is read."""

    def __init__(self, file: MappedFile, start: int, archive: zipfile.ZipFile) -> None:
        self.file, self.start, self.archive = file, start, archive
        self.entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in self.entries if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise ValueError("it has no data.pkl")
        self.prefix = pickles[0].removesuffix("data.pkl")

    def load(self) -> Any:
        order = self.entries.get(f"{self.prefix}byteorder")
        if order is not None and self.archive.read(order) != b"little":
            raise ValueError("its numbers are big-endian")
        entry = self.entries[f"{self.prefix}data.pkl"]
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > _LONGEST_PICKLE:
            raise ValueError("its pickle is compressed or too long")
        data = io.BytesIO(self.archive.read(entry))
        rebuild = {
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._typed_tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *rest: tensor,
        }
        return Unpickler(data, rebuild, self._storage).load()

    def _storage(self, reference: Any) -> _Storage:
        kind, of_type, key, _, count = reference
        if kind != "storage":
            raise ValueError(f"it refers to a {kind!r}")
        entry = self.entries[f"{self.prefix}data/{key}"]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError("its tensors are compressed")
        dtype = _STORAGES.get(str(getattr(of_type, "path", "")).rpartition(".")[2])
        size = count * (dtype.itemsize if dtype else 1)
        header = self.start + entry.header_offset
        start = header + header_length(self.file.bytes[header : header + _LOCAL_HEADER])
        if size > entry.file_size or start + size > self.file.size:
            raise ValueError(f"storage {key} has {entry.file_size} bytes instead of {size}")
        return _Storage(start, size, dtype)

    def _tensor(self, storage: _Storage, offset: int, shape: Any, stride: Any, *rest: Any) -> Any:
        if storage.dtype is None:
            raise ValueError("a tensor's type is unknown")
        return self._typed_tensor(storage, offset, shape, stride, False, None, storage.dtype)

    def _typed_tensor(
        self,
        storage: _Storage,
        offset: int,
        shape: Any,
        stride: Any,
        grad: Any,
        hooks: Any,
        dtype: torch.dtype,
        *rest: Any,
    ) -> StoredTensor:
        shape, stride = tuple(map(int, shape)), tuple(map(int, stride))
        if offset < 0 or min((*shape, *stride), default=0) < 0 or len(shape) != len(stride):
            raise ValueError("a tensor has a negative size")
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride))
        if all(shape) and (last + 1) * dtype.itemsize > storage.nbytes:
            raise ValueError("a tensor is larger than its storage")
        return StoredTensor(
            self.file, storage.start + offset * dtype.itemsize, shape, stride, dtype
        )


def header_length(header: Tensor) -> int:
    """How many bytes stand before an entry's data: its fixed header, its name and its extra."""
    name, extra = struct.unpack_from("<HH", header.numpy().tobytes(), 26)
    return _LOCAL_HEADER + int(name) + int(extra)


def write_hollow(path: Path, content: Any) -> None:
    """Writes an archive with room for its tensors' bytes but without them.

    content: what is saved; every tensor in it with a storage of its own. `places` says where the
    room is. It takes no space on most disks until it is filled.
    """
    with torch.serialization.skip_data():
        torch.save(content, path)


def places(path: Path) -> dict[int, int]:
    """Where in an archive the bytes of its first, second, ... storage begin."""
    starts: dict[int, int] = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            folder, _, key = entry.filename.rpartition("/")
            if folder.endswith("/data"):
                file.seek(entry.header_offset)
                header = torch.frombuffer(bytearray(file.read(_LOCAL_HEADER)), dtype=torch.uint8)
                starts[int(key)] = entry.header_offset + header_length(header)
    return starts


def blanks(infos: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
    """Tensors of these shapes whose memory is never touched, for `write_hollow`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: torch.empty(info.shape, dtype=info.dtype) for name, info in infos.items()}
