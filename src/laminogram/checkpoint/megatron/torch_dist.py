"""Reading the layout of torch's distributed checkpoints: `.metadata` and `*.distcp`.

Layers of one kind are stacked along a first axis; every tensor lies in boxes, cut as the run that
wrote it was. Source: `megatron/core/dist_checkpointing` of NVIDIA/Megatron-LM and
`torch.distributed.checkpoint`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laminogram.checkpoint.megatron.archives import MappedFile, StoredTensor, read_archive
from laminogram.checkpoint.megatron.contents import Contents, Whole
from laminogram.checkpoint.megatron.naming import canonical, meaningless
from laminogram.checkpoint.megatron.records import UNREADABLE, Record, Unpickler, plain
from laminogram.checkpoint.reading import TensorInfo
from laminogram.errors import CheckpointError

COMMON_FILE, COMMON_KEY = "common.pt", "common_state/shard_0_1"
_MODEL = ("embedding.", "decoder.", "output_layer.")
_STACK = "decoder.layers."


@dataclass(frozen=True)
class Box:
    """A part of a tensor: where it begins there, its sizes, and where in which file it lies."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: MappedFile
    start: int
    length: int

    def get(self) -> Tensor:
        """The part; CheckpointError where the file holds something else."""
        stored = read_archive(self.file, self.start, self.length)
        if not isinstance(stored, StoredTensor) or stored.shape != self.sizes:
            raise CheckpointError(
                f"{self.file.path}: at byte {self.start} should lie a tensor of {self.sizes}"
            )
        return stored.get()


@dataclass(frozen=True)
class Boxed:
    """A tensor in boxes, or one layer of a stack of them (`layer`)."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    boxes: tuple[Box, ...]
    layer: int | None = None

    @property
    def info(self) -> TensorInfo:
        """Shape and dtype of the whole."""
        return TensorInfo(self.shape if self.layer is None else self.shape[1:], self.dtype)

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the boxes that have a share in it."""
        return tuple(dict.fromkeys(box.file.path for box, _, _ in self._shares()))

    def get(self) -> Tensor:
        """The whole; CheckpointError where boxes are missing or overlap."""
        low, high = self._bounds
        target = None
        filled = 0
        for box, start, end in self._shares():
            taken = box.get()[
                tuple(slice(a - o, b - o) for a, b, o in zip(start, end, box.offsets))
            ]
            filled += taken.numel()
            if taken.numel() == self._size(low, high):
                target = taken
                continue
            if target is None:
                target = torch.empty([b - a for a, b in zip(low, high)], dtype=self.dtype)
            target[tuple(slice(a - o, b - o) for a, b, o in zip(start, end, low))] = taken
        if target is None or filled != self._size(low, high):
            raise CheckpointError(
                f"{self.name}: {filled} of {self._size(low, high)} numbers are stored"
            )
        return target if self.layer is None else target[0]

    @property
    def _bounds(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Where it begins and ends in what is stored under its key."""
        low = (self.layer or 0, *[0] * (len(self.shape) - 1))
        return low, self.shape if self.layer is None else (self.layer + 1, *self.shape[1:])

    def _shares(self) -> Iterator[tuple[Box, list[int], list[int]]]:
        """The boxes that hold a part of it, with where that part begins and ends."""
        low, high = self._bounds
        for box in self.boxes:
            start = [max(a, b) for a, b in zip(low, box.offsets)]
            end = [min(a, b + n) for a, b, n in zip(high, box.offsets, box.sizes)]
            if all(a < b for a, b in zip(start, end)):
                yield box, start, end

    @staticmethod
    def _size(low: tuple[int, ...], high: tuple[int, ...]) -> int:
        return torch.Size([b - a for a, b in zip(low, high)]).numel()


@dataclass(frozen=True)
class Halves:
    """Gate and up that are stored apart."""

    gate: Whole
    up: Whole

    @property
    def info(self) -> TensorInfo:
        """Shape and dtype of both together."""
        rows = self.gate.info.shape[0] + self.up.info.shape[0]
        return TensorInfo((rows, *self.gate.info.shape[1:]), self.gate.info.dtype)

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of both."""
        return tuple(dict.fromkeys(self.gate.files + self.up.files))

    def get(self) -> Tensor:
        """Gate above up."""
        return torch.cat([self.gate.get(), self.up.get()])


def is_torch_dist(folder: Path) -> bool:
    """True for an iteration's folder in this layout."""
    return (folder / ".metadata").is_file() and (folder / "metadata.json").is_file()


def read_torch_dist(folder: Path) -> Contents:
    """Opens an iteration's folder, reading no tensor.

    CheckpointError where its tables are damaged, a file is missing, or the format is another.
    """
    _check_backend(folder)
    metadata = _read_metadata(folder)
    files: dict[str, MappedFile] = {}
    places = _places(folder, metadata, files)
    tensors: dict[str, Whole] = {}
    for key, described in metadata["state_dict_metadata"].items():
        name = canonical(key)
        if not name.startswith(_MODEL) or meaningless(name) or "size" not in described.fields:
            continue
        shape, dtype = _shape(described), described.fields["properties"].fields["state"][0]
        boxes = tuple(_box(folder, key, chunk, places) for chunk in described.fields["chunks"])
        tensors.update(_unstacked(name, shape, dtype, boxes))
    common = _common(folder, places)
    arguments = plain(common.get("args"))
    return Contents(
        folder,
        "torch_dist",
        _with_halves(tensors),
        arguments if isinstance(arguments, dict) else None,
        iteration=int(common.get("iteration") or 0),
        checkpoint_version=float(common.get("checkpoint_version") or 3.0),
    )


def _check_backend(folder: Path) -> None:
    file = folder / "metadata.json"
    try:
        backend = json.loads(file.read_text(encoding="utf-8"))["sharded_backend"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{file} does not name a format: {error!r}") from error
    if backend != "torch_dist":
        raise CheckpointError(f"{file} names the format {backend!r}; expected torch_dist")


def _read_metadata(folder: Path) -> Mapping[str, Any]:
    file = folder / ".metadata"
    try:
        with file.open("rb") as stream:
            metadata = Unpickler(stream).load()
        fields = metadata.fields
        if not {"state_dict_metadata", "storage_data"} <= set(fields):
            raise ValueError(f"it is {metadata!r}")
    except UNREADABLE as error:
        raise CheckpointError(f"{file} is no readable table of tensors: {error!r}") from error
    return dict(fields)


def _places(
    folder: Path, metadata: Mapping[str, Any], files: dict[str, MappedFile]
) -> dict[tuple[str, tuple[int, ...] | None], tuple[MappedFile, int, int]]:
    """Where each part lies, by its tensor's key and its offsets there."""
    found = {}
    try:
        for index, place in metadata["storage_data"].items():
            name, key = str(place.fields["relative_path"]), index.fields["fqn"]
            if name not in files:
                if Path(name).name != name or not (folder / name).is_file():
                    raise CheckpointError(f"{folder} lacks {name}, which holds {key}")
                files[name] = MappedFile(folder / name)
            offsets = index.fields.get("offset")
            where = (files[name], int(place.fields["offset"]), int(place.fields["length"]))
            found[key, None if offsets is None else tuple(offsets)] = where
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder / '.metadata'} is no readable table: {error!r}") from error
    return found


def _shape(described: Record) -> tuple[int, ...]:
    return tuple(int(size) for size in described.fields["size"])


def _box(folder: Path, key: str, chunk: Record, places: Mapping[Any, Any]) -> Box:
    offsets, sizes = tuple(chunk.fields["offsets"]), tuple(chunk.fields["sizes"])
    if (key, offsets) not in places:
        raise CheckpointError(f"{folder} has no part of {key} at {offsets}")
    return Box(offsets, sizes, *places[key, offsets])


def _unstacked(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, boxes: tuple[Box, ...]
) -> dict[str, Whole]:
    """One tensor by its name, or those of all layers where they are stacked."""
    rest = name.removeprefix(_STACK)
    if rest == name or rest.partition(".")[0].isdigit():
        return {name: Boxed(name, shape, dtype, boxes)}
    return {
        f"{_STACK}{layer}.{rest}": Boxed(name, shape, dtype, boxes, layer)
        for layer in range(shape[0])
    }


def _with_halves(tensors: Mapping[str, Whole]) -> dict[str, Whole]:
    """Tensors whose gate and up have keys of their own, put together."""
    joined: dict[str, Whole] = {}
    for name, whole in tensors.items():
        stem = name.removesuffix("_w").removesuffix("_v")
        if stem == name or ".linear_fc1." not in name:
            joined[name] = whole
        elif name.endswith("_w"):
            if f"{stem}_v" not in tensors:
                raise CheckpointError(f"{name} is there without {stem}_v")
            joined[stem] = Halves(whole, tensors[f"{stem}_v"])
    return joined


def _common(folder: Path, places: Mapping[Any, Any]) -> dict[str, Any]:
    """What is no tensor: in a file of its own, or since 2026 among the tensors."""
    if (folder / COMMON_FILE).is_file():
        content = read_archive(MappedFile(folder / COMMON_FILE))
    elif (COMMON_KEY, None) in places:
        content = read_archive(*places[COMMON_KEY, None])
        content = content[0] if isinstance(content, list) and content else content
    else:
        return {}
    if not isinstance(content, dict):
        raise CheckpointError(f"{folder}: the common state is a {type(content).__name__}")
    return content
