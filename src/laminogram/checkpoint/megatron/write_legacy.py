"""Preparing the layout of one file a rank: hollow files, and where every tensor's parts go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from laminogram.checkpoint.megatron.archives import blanks, places, write_hollow
from laminogram.checkpoint.megatron.filling import Slot, Task
from laminogram.checkpoint.megatron.legacy import RANK_FILES
from laminogram.checkpoint.megatron.naming import (
    EMBEDDING,
    LINEARS,
    OUTPUT,
    cut_of,
    layer_of,
    numbered,
    spelled,
)
from laminogram.checkpoint.megatron.splits import part, part_shape, vocabulary_part
from laminogram.checkpoint.megatron.target import Model
from laminogram.checkpoint.reading import TensorInfo


def legacy_files(folder: Path, model: Model) -> list[Path]:
    """The files of all ranks, by tensor rank within pipeline stage."""
    tp, pp = model.target.tp, model.target.pp
    ending = "_{:03d}" if pp > 1 else ""
    return [
        folder / f"mp_rank_{rank:02d}{ending.format(stage)}" / RANK_FILES[0]
        for stage in range(pp)
        for rank in range(tp)
    ]


def prepare_legacy(folder: Path, model: Model, *, fresh: bool) -> list[Task]:
    """Writes every rank's file without the tensors' bytes; what remains is to fill the slots.

    `fresh` false finds the files there and leaves them as they are.
    """
    slots: dict[str, list[Slot]] = defaultdict(list)
    tp = model.target.tp
    for number, file in enumerate(legacy_files(folder, model)):
        stage, rank = divmod(number, tp)
        file.parent.mkdir(parents=True, exist_ok=True)
        infos = dict(stage_parts(model, stage))
        content, order = _content(model, stage, infos)
        if fresh:
            write_hollow(file, content)
        starts = places(file)
        for number_there, name in enumerate(order):
            source = EMBEDDING if name == OUTPUT and model.tied else name
            room, take = infos[name].nbytes, _taker(model, name, rank)
            slots[source].append(Slot(file, starts[number_there], room, take))
    return [
        Task(name, info, partial(model.get, name), tuple(slots[name]))
        for name, info in model.infos.items()
    ]


def _taker(model: Model, name: str, rank: int) -> Callable[[Tensor], Tensor]:
    """What of a whole tensor rank `rank` has."""
    target, cut = model.target, cut_of(name)
    if cut == "vocabulary":
        return lambda tensor: vocabulary_part(
            tensor, model.vocabulary, target.vocab_padding, rank, target.tp
        )
    return lambda tensor: part(tensor, cut, rank, target.tp)


def stage_parts(model: Model, stage: int) -> Iterator[tuple[str, TensorInfo]]:
    """Global names of a stage's tensors with the shapes of their parts."""
    tp, stages = model.target.tp, model.stages
    last = stage == model.target.pp - 1
    for name, info in model.infos.items():
        layer = layer_of(name)
        if layer is None:
            here = stage == 0 if name == EMBEDDING else last
        else:
            here = stages.place(layer).stage == stage
        if here:
            whole = info.shape
            if cut_of(name) == "vocabulary":
                whole = (model.vocabulary, *whole[1:])
            yield name, TensorInfo(part_shape(whole, cut_of(name), tp), info.dtype)
    if model.tied and last and stage > 0:
        info = model.infos[EMBEDDING]
        whole = (model.vocabulary, *info.shape[1:])
        yield OUTPUT, TensorInfo(part_shape(whole, "vocabulary", tp), info.dtype)


def home_of(model: Model, name: str) -> tuple[int, str]:
    """The chunk of its stage in which a tensor lies, and what it is called there."""
    layer = layer_of(name)
    if layer is None:
        chunk, local = 0 if name == EMBEDDING else model.target.vpp - 1, name
    else:
        place = model.stages.place(layer)
        chunk, local = place.chunk, numbered(name, place.local)
    return chunk, spelled(local, model.target.norms)


def chunk_names(vpp: int) -> list[str]:
    """The entries of a rank's file that hold the chunks' tensors."""
    return ["model"] if vpp == 1 else [f"model{chunk}" for chunk in range(vpp)]


def _content(
    model: Model, stage: int, infos: dict[str, TensorInfo]
) -> tuple[dict[str, Any], list[str]]:
    """What a rank's file holds, and its tensors by global name in the order saved."""
    stages, vpp = model.stages, model.target.vpp
    chunks: list[dict[str, Any]] = [{} for _ in range(vpp)]
    tensors = blanks(infos)
    order = []
    for chunk in range(vpp):
        for name, tensor in tensors.items():
            home, key = home_of(model, name)
            if home == chunk:
                chunks[chunk][key] = tensor
                order.append(name)
        if model.target.norms == "te":
            for layer in range(stages.count(stage, chunk)):
                for module in LINEARS:
                    chunks[chunk][f"decoder.layers.{layer}.{module}._extra_state"] = None
    return {**model.state, **dict(zip(chunk_names(vpp), chunks))}, order
