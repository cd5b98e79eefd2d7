"""Preparing the layout of torch's distributed checkpoints: one hollow file and its table.

Written as the format is documented rather than through a process group: every part of a tensor is
an archive of its own, at a place that is known before its bytes are.
"""

from __future__ import annotations

import io
import json
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from laminogram.checkpoint.megatron.archives import blanks, places, write_hollow
from laminogram.checkpoint.megatron.filling import Slot, Task
from laminogram.checkpoint.megatron.naming import LINEARS, Cut, cut_of, layer_of, stacked
from laminogram.checkpoint.megatron.splits import check_cut, vocabulary_part
from laminogram.checkpoint.megatron.target import Model
from laminogram.checkpoint.megatron.torch_dist import COMMON_FILE, COMMON_KEY
from laminogram.checkpoint.reading import TensorInfo
from laminogram.checkpoint.write import write_bytes, write_text

DATA_FILE = "__0_0.distcp"
_ALIGNMENT = 64
# Modules beside the products that Transformer Engine asks for empty state of.
_OTHERS = ("self_attention.core_attention",)
_NORMS = ("self_attention.q_layernorm", "self_attention.k_layernorm")


class _Blob(NamedTuple):
    """The archive of one tensor without its bytes: what stands before them, and behind."""

    head: bytes
    nbytes: int
    tail: bytes

    @property
    def length(self) -> int:
        """Bytes of the whole archive."""
        return len(self.head) + self.nbytes + len(self.tail)


class _Piece(NamedTuple):
    """One part of one tensor: its key and its box there, its archive's place in the file."""

    key: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    place: int
    blob: _Blob
    name: str
    take: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Table:
    """Everything of the checkpoint but the tensors' bytes."""

    pieces: tuple[_Piece, ...]
    objects: dict[str, tuple[int, bytes]]
    size: int


def lay_out(folder: Path, model: Model) -> Table:
    """Gives every part of every tensor, and every object, its place in the file."""
    blobs: dict[TensorInfo, _Blob] = {}
    pieces: list[_Piece] = []
    place = 0
    for name, info in model.infos.items():
        layer = layer_of(name)
        lead = () if layer is None else (layer,)
        ones = () if layer is None else (1,)
        for offsets, sizes, take in _boxes(model, name, info):
            shape = TensorInfo((*ones, *sizes), info.dtype)
            if shape not in blobs:
                blobs[shape] = _blob(folder, shape)
            box = ((*lead, *offsets), shape.shape)
            pieces.append(_Piece(stacked(name), *box, place, blobs[shape], name, take))
            place = _aligned(place + blobs[shape].length)
    objects: dict[str, tuple[int, bytes]] = {}
    empty = _saved([None])
    for key in _state_keys(model):
        objects[key] = (place, empty)  # all of them share one place
    place = _aligned(place + len(empty))
    if model.target.common == "inside":
        content = _saved([model.state])
        objects[COMMON_KEY] = (place, content)
        place = _aligned(place + len(content))
    return Table(tuple(pieces), objects, place)


def prepare_torch_dist(folder: Path, model: Model, table: Table, *, fresh: bool) -> list[Task]:
    """Writes the file without the tensors' bytes; what remains is to fill the slots.

    `fresh` false finds the file there and leaves it as it is.
    """
    file = folder / DATA_FILE
    if fresh:
        _write_around(file, table)
    slots: dict[str, list[Slot]] = defaultdict(list)
    for piece in table.pieces:
        start = piece.place + len(piece.blob.head)
        slots[piece.name].append(Slot(file, start, piece.blob.nbytes, piece.take))
    return [
        Task(name, info, partial(model.get, name), tuple(slots[name]))
        for name, info in model.infos.items()
    ]


def _write_around(file: Path, table: Table) -> None:
    with file.open("wb") as stream:
        stream.truncate(table.size)
        for place, content in set(table.objects.values()):
            stream.seek(place)
            stream.write(content)
        for piece in table.pieces:
            stream.seek(piece.place)
            stream.write(piece.blob.head)
            stream.seek(piece.place + len(piece.blob.head) + piece.blob.nbytes)
            stream.write(piece.blob.tail)


def finish_torch_dist(folder: Path, model: Model, table: Table) -> None:
    """Writes the tables that make the file a checkpoint: `.metadata`, then `metadata.json`."""
    backends: dict[str, Any] = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    if model.target.common == "file":
        write_bytes(folder / COMMON_FILE, _saved(model.state))
        backends |= {"common_backend": "torch", "common_backend_version": 1}
    write_bytes(folder / ".metadata", _metadata(model, table))
    write_text(folder / "metadata.json", json.dumps(backends))


def _metadata(model: Model, table: Table) -> bytes:
    """Torch's own records of what lies where, pickled as torch reads them."""
    # Here and not above: these modules bring sympy and more, over a second for whoever loads a
    # model, and nothing else needs them.
    from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        BytesStorageMetadata,
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )

    described: dict[str, Any] = {}
    stored: dict[MetadataIndex, _StorageInfo] = {}
    for piece in table.pieces:
        if piece.key not in described:
            described[piece.key] = TensorStorageMetadata(
                TensorProperties(model.infos[piece.name].dtype), _size(model, piece), []
            )
        box = ChunkStorageMetadata(torch.Size(piece.offsets), torch.Size(piece.sizes))
        described[piece.key].chunks.append(box)
        index = MetadataIndex(piece.key, piece.offsets)
        stored[index] = _StorageInfo(DATA_FILE, piece.place, piece.blob.length)
    for key, (place, content) in table.objects.items():
        described[key] = BytesStorageMetadata()
        stored[MetadataIndex(key)] = _StorageInfo(DATA_FILE, place, len(content))
    return pickle.dumps(Metadata(described, storage_data=stored, version=CURRENT_DCP_VERSION))


def _boxes(
    model: Model, name: str, info: TensorInfo
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], Callable[[Tensor], Tensor]]]:
    """The parts of a tensor: where each begins, its sizes, and how it is taken from the whole."""
    cut, tp = cut_of(name), model.target.tp
    shape = (model.vocabulary, *info.shape[1:]) if cut == "vocabulary" else info.shape
    check_cut(shape, cut, tp)
    pieces = {"whole": 1, "halves": 2 * tp}.get(cut, tp)
    axis = 1 if cut == "columns" else 0
    share = shape[axis] // pieces
    sizes = (*shape[:axis], share, *shape[axis + 1 :])
    for number in range(pieces):
        offsets = tuple(share * number if a == axis else 0 for a in range(len(shape)))
        yield offsets, sizes, _taker(model, cut, axis, share, number)


def _taker(
    model: Model, cut: Cut, axis: int, share: int, number: int
) -> Callable[[Tensor], Tensor]:
    if cut == "vocabulary":
        rows, target = model.vocabulary, model.target
        return lambda tensor: vocabulary_part(tensor, rows, target.vocab_padding, number, target.tp)
    return lambda tensor: tensor.narrow(axis, number * share, share)


def _size(model: Model, piece: _Piece) -> torch.Size:
    shape = model.infos[piece.name].shape
    if cut_of(piece.name) == "vocabulary":
        shape = (model.vocabulary, *shape[1:])
    layered = layer_of(piece.name) is not None
    return torch.Size((model.stages.num_layers, *shape) if layered else shape)


def _state_keys(model: Model) -> list[str]:
    """Objects of state that Transformer Engine looks for, one for each layer and module."""
    layers = model.stages.num_layers
    modules = [*LINEARS, *_OTHERS, *(_NORMS if model.arguments["qk_layernorm"] else ())]
    return [
        *(
            f"decoder.layers.{module}._extra_state/shard_{layer}_{layers}"
            for module in modules
            for layer in range(layers)
        ),
        "decoder.final_layernorm._extra_state/shard_0_1",
    ]


def _blob(folder: Path, info: TensorInfo) -> _Blob:
    file = folder / "blob.partial"
    tensor = blanks({"": info})[""]
    write_hollow(file, tensor)
    start = places(file)[0]
    with file.open("rb") as stream:
        head = stream.read(start)
        stream.seek(start + tensor.nbytes)
        blob = _Blob(head, tensor.nbytes, stream.read())
    file.unlink()
    return blob


def _saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT
