"""Writing weights: streamed tensor by tensor, and visible under their name only once complete."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from laminogram import families
from laminogram.checkpoint.fingerprint import tensor_bytes
from laminogram.checkpoint.reading import SAFETENSORS_DTYPES, TensorInfo
from laminogram.checkpoint.side_by_side import write_side_by_side
from laminogram.errors import CheckpointError
from laminogram.stack.config import StackConfig

_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
MAX_SHARD_BYTES = 5_000_000_000
Watch = Callable[[str, memoryview], None]


def write_safetensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes one safetensors file atomically: a temporary file beside it, flushed, then renamed."""
    infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in tensors.items()}
    stream_safetensors(path, infos, tensors.__getitem__, metadata)


def stream_safetensors(
    path: str | Path,
    infos: Mapping[str, TensorInfo],
    make: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    workers: int = 1,
    watch: Watch | None = None,
) -> None:
    """Like `write_safetensors`, each tensor made by `make(name)` when its turn comes.

    With several `workers`, tensors are made and written side by side, to the same bytes.
    `watch(name, chunk)` sees all bytes of a tensor, in order. CheckpointError where a tensor is not
    what `infos` promised; then no file is left behind.
    """
    path = Path(path)
    # Widest elements first keeps every tensor aligned, so that a reader can map it as it is.
    order = sorted(infos, key=lambda name: (-infos[name].dtype.itemsize, name))
    header = _header({name: infos[name] for name in order}, metadata)

    def chunks(name: str) -> Iterator[memoryview]:
        tensor = make(name)
        if (tuple(tensor.shape), tensor.dtype) != infos[name]:
            raise CheckpointError(
                f"{name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}; "
                f"announced were {infos[name].shape} and {infos[name].dtype}"
            )
        for chunk in tensor_bytes(tensor):
            if watch is not None:
                watch(name, chunk)
            yield chunk

    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(header)
            if workers > 1 and hasattr(os, "pwrite"):
                file.flush()
                sizes = {name: infos[name].nbytes for name in order}
                write_side_by_side(file.fileno(), len(header), sizes, chunks, workers)
            else:
                for name in order:
                    file.writelines(chunks(name))
            file.flush()
            os.fsync(file.fileno())
        _permit(temporary)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    _sync_directory(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file atomically, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file atomically."""
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _permit(temporary)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def export(
    stack: nn.Module,
    config: StackConfig,
    destination: str | Path,
    *,
    layout: str | None = None,
    extra_files: Iterable[str | Path] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Writes `stack` as a directory that this package and other programs open.

    config.json holds `config.source`; `layout` is one of the family's (its first unless named);
    `extra_files` (a tokenizer) are copied along. The directory appears under its name once it is
    complete. CheckpointError where `destination` exists, or `config.source` no longer describes
    the stack.
    """
    destination = Path(destination)
    if destination.exists():
        raise CheckpointError(f"{destination} exists; an export never overwrites")
    family = families.get(config.family)
    form = family.layout_named(layout) if layout else family.layouts[0]
    mapping = form.bind(config)
    parameters = {name: p.detach() for name, p in stack.named_parameters()}
    blank = {
        name: torch.empty(p.shape, dtype=p.dtype, device="meta") for name, p in parameters.items()
    }
    infos = {}
    for name in mapping.names_of_theirs(list(parameters)):
        bound = mapping.theirs(name)
        if bound is None:
            raise CheckpointError(f"layout {form.name} cannot write {name}")
        shape = bound.write(blank.__getitem__)
        infos[name] = TensorInfo(tuple(shape.shape), shape.dtype)
    shapes = {name: info.shape for name, info in infos.items()}
    if family.config(config.source, shapes) != config:
        raise CheckpointError(
            f"the configuration that a {config.family} stack was read from no longer describes it; "
            "an export would not load as the same model"
        )

    def make(name: str) -> Tensor:
        bound = mapping.theirs(name)
        assert bound is not None
        return bound.write(parameters.__getitem__).to(infos[name].dtype)

    destination.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
    try:
        work.chmod(0o755)
        write_shards(work, infos, make, max_shard_bytes)
        write_text(work / "config.json", json.dumps(_source(config, infos), indent=2) + "\n")
        for file in extra_files:
            shutil.copyfile(file, work / Path(file).name)
        work.rename(destination)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return destination


def _source(config: StackConfig, infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
    dtypes = {str(info.dtype).removeprefix("torch.") for info in infos.values()}
    source = dict(config.source)
    source.pop("torch_dtype", None)
    return source | ({"dtype": dtypes.pop()} if len(dtypes) == 1 else {})


def write_shards(
    folder: Path,
    infos: Mapping[str, TensorInfo],
    make: Callable[[str], Tensor],
    max_shard_bytes: int,
) -> None:
    """Write tensors, made one at a time, to safetensors files of at most that size, with an index
    where there are several."""
    shards = plan_shards(infos, max_shard_bytes)
    for file, shard in shards.items():
        stream_safetensors(folder / file, shard, make, {"format": "pt"})
    write_index(folder, shards)


def plan_shards(
    infos: Mapping[str, TensorInfo], max_shard_bytes: int
) -> dict[str, dict[str, TensorInfo]]:
    """Which tensors go to which file, in their order; a file holds at least one."""
    shards: list[dict[str, TensorInfo]] = [{}]
    filled = 0
    for name, info in infos.items():
        if shards[-1] and filled + info.nbytes > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = info
        filled += info.nbytes
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    count = len(shards)
    names = (f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1))
    return dict(zip(names, shards))


def write_index(folder: Path, shards: Mapping[str, Mapping[str, TensorInfo]]) -> None:
    """Write which tensor lies in which file, where there are several."""
    if len(shards) == 1:
        return
    placed = {name: file for file, shard in shards.items() for name in shard}
    total = sum(info.nbytes for shard in shards.values() for info in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")


def _header(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, info in infos.items():
        if info.dtype not in _NAMES:
            raise CheckpointError(f"{name}: safetensors has no name for {info.dtype}")
        end = offset + torch.Size(info.shape).numel() * info.dtype.itemsize
        entries[name] = {
            "dtype": _NAMES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _permit(temporary: str) -> None:
    # A temporary file is private; what is published follows the user's usual permissions.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(temporary, 0o666 & ~mask)


def _sync_directory(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
