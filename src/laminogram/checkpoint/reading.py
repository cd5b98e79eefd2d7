"""Opening a checkpoint: names, shapes and dtypes at once, each tensor's bytes when it is asked for.

Files are memory-mapped privately: pages are shared with every other reader until somebody writes
to them, and a write stays in this process. `.pth` files are read with `weights_only=True`, so
nothing that a file contains is executed.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from laminogram.errors import CheckpointError

SAFETENSORS_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLES = ("model.safetensors", "pytorch_model.bin")
_PICKLES = (".pth", ".pt", ".bin")
_LONGEST_HEADER = 100_000_000
# What a damaged or hostile file makes torch's restricted reader raise.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    zipfile.BadZipFile,
)


class TensorInfo(NamedTuple):
    """What is known of a tensor before its bytes are read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass
class Checkpoint:
    """An open checkpoint. `extras` are the entries of a `.pth` file that are no tensors."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    extras: Mapping[str, Any] = field(default_factory=dict)
    _files: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape by name."""
        return {name: info.shape for name, info in self.tensors.items()}

    @property
    def keys(self) -> list[str]:
        """Names of all entries, tensors first."""
        return [*self.tensors, *self.extras]

    def get(self, name: str) -> Tensor:
        """The tensor, mapped from its file; CheckpointError where it does not exist."""
        if name not in self.tensors:
            listed = ", ".join(sorted(self.tensors)[:4])
            raise CheckpointError(f"{self.path} has no tensor {name!r}; it has {listed}, ...")
        source = self._files[name]
        if isinstance(source, Tensor):
            return source.detach()
        try:
            tensor: Tensor = source.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            message = f"{self.path}: tensor {name!r} cannot be read: {error}"
            raise CheckpointError(message) from error
        return tensor

    def parts(self, name: str) -> tuple[Path, ...]:
        """The files of a tensor that is put together from parts; none where it is in one piece."""
        files: Callable[[str], tuple[Path, ...]] | None
        files = getattr(self._files.get(name), "files", None)
        return () if files is None else files(name)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a directory (one file or indexed shards) or one `.safetensors`, `.pth`, `.pt`, `.bin`.

    CheckpointError names the file that is missing, truncated or unreadable, and why.
    """
    path = Path(path)
    if path.is_dir():
        return _open_directory(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    return _open_file(path)


def _open_directory(path: Path) -> Checkpoint:
    for name in _INDEXES:
        if (path / name).is_file():
            return _open_shards(path, path / name)
    for name in _SINGLES:
        if (path / name).is_file():
            return _open_file(path / name)
    files = sorted(file for file in path.iterdir() if file.suffix in (".safetensors", *_PICKLES))
    if len(files) == 1:
        return _open_file(files[0])
    found = ", ".join(file.name for file in files[:6]) or "no weight file"
    raise CheckpointError(
        f"{path} has {found}; expected {_SINGLES[0]}, {_INDEXES[0]} with its shards, or one "
        ".safetensors or .pth file"
    )


def _open_file(path: Path) -> Checkpoint:
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    if path.suffix in _PICKLES:
        return _open_pickle(path)
    raise CheckpointError(f"{path} is no weight file; expected .safetensors, .pth, .pt or .bin")


def _open_shards(path: Path, index: Path) -> Checkpoint:
    try:
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        items = {str(name): str(file) for name, file in placed.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of shards: {error!r}") from error
    names = sorted(set(items.values()))
    outside = [name for name in names if Path(name).name != name]
    missing = [name for name in names if not (path / name).is_file()]
    if outside or missing:
        listed = ", ".join((outside or missing)[:4])
        what = "lie outside the directory" if outside else "are missing"
        raise CheckpointError(
            f"{len(outside or missing)} of the {len(names)} shards that {index.name} names {what}: "
            f"{listed}"
        )
    shards = {name: _open_file(path / name) for name in names}
    absent = [name for name, file in items.items() if name not in shards[file].tensors]
    if absent:
        listed = ", ".join(f"{name} (in {items[name]})" for name in absent[:4])
        raise CheckpointError(f"{index.name} promises {len(absent)} tensors not there: {listed}")
    tensors: dict[str, TensorInfo] = {}
    files: dict[str, Any] = {}
    for shard in shards.values():
        twice = sorted(set(tensors) & set(shard.tensors))
        if twice:
            raise CheckpointError(f"{shard.path} repeats tensors of another shard: {twice[:4]}")
        tensors.update(shard.tensors)
        files.update(shard._files)
    return Checkpoint(path, tensors, _files=files)


def _open_safetensors(path: Path) -> Checkpoint:
    tensors = read_header(path)[0]
    try:
        handle = safe_open(str(path), framework="pt")
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file: {error}") from error
    return Checkpoint(path, tensors, _files=dict.fromkeys(tensors, handle))


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The tensors and the metadata that a safetensors file declares, its size checked.

    CheckpointError says how many bytes a truncated file has and should have.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_LONGEST_HEADER, size - 8):
                raise CheckpointError(
                    f"{path} is truncated or no safetensors file: its header should have {length} "
                    f"bytes, the file has {size}"
                )
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        tensors = {
            name: TensorInfo(tuple(entry["shape"]), SAFETENSORS_DTYPES[entry["dtype"]])
            for name, entry in header.items()
        }
    except (struct.error, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is no readable safetensors file: {error!r}") from error
    expected = 8 + length + end
    if size != expected:
        what = "is truncated" if size < expected else "has bytes that no tensor claims"
        raise CheckpointError(f"{path} {what}: expected {expected} bytes, found {size}")
    return tensors, metadata


def _open_pickle(path: Path) -> Checkpoint:
    try:
        with warnings.catch_warnings():
            # What torch remarks about an odd file is either an error below or of no consequence.
            warnings.simplefilter("ignore")
            # Files older than torch 1.6 are no archives and cannot be mapped: they are read whole.
            mapped = zipfile.is_zipfile(path)
            loaded = torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path} is truncated, damaged, or holds more than plain tensors (which is never "
            f"executed): {_reason(error)}"
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}; expected tensors by name")
    tensors = {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; its keys are {sorted(loaded)[:6]}")
    return Checkpoint(
        path,
        {name: TensorInfo(tuple(value.shape), value.dtype) for name, value in tensors.items()},
        {name: value for name, value in loaded.items() if name not in tensors},
        dict(tensors),
    )


def _reason(error: Exception) -> str:
    """What stopped the reading, without torch's advice to execute the file after all."""
    text = str(error)
    asked = re.search(r"unsupported global:? (?:GLOBAL )?([\w.]*\w)", text, re.IGNORECASE)
    if asked:
        return f"it asks for {asked.group(1)}"
    if isinstance(error, KeyError) or not text.strip():
        return f"it is no archive that torch wrote ({error!r})"
    return text.splitlines()[0].split(". ")[0][:200]
