"""Files of tensors that are written whole or not at all.

Results are safetensors files with JSON in their header: never pickled, so that opening a file that
someone else made runs nothing.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from laminogram.errors import LaminogramError


class StoreError(LaminogramError, ValueError):
    """A file or folder of results is missing, damaged, or not what it is opened as."""


def write_tensors(
    path: str | PathLike[str],
    kind: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors, any device and layout, with texts and their kind in the header.

    The file appears under its name only when it is complete and on the disk. Raises StoreError
    where its folder does not exist.
    """
    owned: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        packed = tensor.detach().cpu().contiguous()
        # The format has no views: two tensors of one storage must become two.
        storage = packed.untyped_storage().data_ptr()
        owned[name] = packed.clone() if storage in storages else packed
        storages.add(storage)
    path = Path(path)
    if not path.parent.is_dir():
        raise StoreError(f"there is no folder {path.parent} to write {path.name} to")
    spare = temporary(path)
    try:
        save_file(owned, spare, metadata={"format": kind, **metadata})
        publish(spare, path)
    finally:
        spare.unlink(missing_ok=True)


def read_tensors(path: str | PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and header texts of a file of this kind. Raises StoreError."""
    with _opened(path, kind) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, dict(file.metadata())


def read_metadata(path: str | PathLike[str], kind: str) -> dict[str, str]:
    """The header texts alone. Raises StoreError, also for a file cut short."""
    with _opened(path, kind) as file:
        return dict(file.metadata())


def _opened(path: str | PathLike[str], kind: str) -> Any:
    try:
        file = safe_open(os.fspath(path), framework="pt")
    except FileNotFoundError as error:
        raise StoreError(f"there is no file {os.fspath(path)}") from error
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{os.fspath(path)} cannot be read: {error}") from error
    found = (file.metadata() or {}).get("format")
    if found != kind:
        raise StoreError(f"{os.fspath(path)} is of format {found!r}; {kind!r} was expected")
    return file


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    spare = temporary(path)
    try:
        spare.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        publish(spare, path)
    finally:
        spare.unlink(missing_ok=True)


def temporary(path: Path) -> Path:
    """A name beside `path` for a file that is being written, telling by whom."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def publish(spare: Path, path: Path) -> None:
    """Give a finished file its name, after its bytes have reached the disk."""
    with spare.open("rb+") as file:
        os.fsync(file.fileno())
    spare.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can tell."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove half-written files whose writer, a process of this machine, no longer runs."""
    for spare in folder.glob(f".*.{socket.gethostname()}.*.tmp"):
        writer = spare.name.split(".")[-2]
        if writer.isdecimal() and not _runs(int(writer)):
            spare.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    if os.name != "posix":  # there, asking could end the process; the file is harmless
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def text_tensor(value: Any) -> Tensor:
    """A JSON value as bytes, for texts too long for a header."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def tensor_text(tensor: Tensor) -> Any:
    """The value that `text_tensor` stored."""
    return json.loads(tensor.numpy().tobytes().decode())
