"""Where every tensor of a model will lie, found from names and shapes alone; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from laminogram.checkpoint.megatron.naming import EMBEDDING, OUTPUT, cut_of, layer_of, stacked
from laminogram.checkpoint.megatron.splits import check_cut
from laminogram.checkpoint.megatron.target import Model
from laminogram.checkpoint.megatron.write_legacy import (
    chunk_names,
    home_of,
    legacy_files,
    stage_parts,
)
from laminogram.checkpoint.megatron.write_torch_dist import DATA_FILE
from laminogram.checkpoint.reading import TensorInfo


class Part(NamedTuple):
    """A whole tensor at one stage of the pipeline, in the files of all tensor-parallel ranks.

    name: the global name of the whole tensor. key: what the files call it, with the layer in
    brackets where those of all layers are stacked. files: by rank, from the checkpoint's root.
    nbytes: in all files together. operation: what is done to the whole tensor, empty where its
    bytes are copied.
    """

    name: str
    key: str
    files: tuple[Path, ...]
    nbytes: int
    operation: str


def parts_of(model: Model) -> list[Part]:
    """Every tensor of every stage; ConfigError where the model cannot be cut as it should be."""
    return list(_legacy(model) if model.target.layout == "legacy" else _torch_dist(model))


def _legacy(model: Model) -> Iterator[Part]:
    tp, chunks = model.target.tp, chunk_names(model.target.vpp)
    files = legacy_files(Path(model.target.folder), model)
    for stage in range(model.target.pp):
        ranks = tuple(files[stage * tp : (stage + 1) * tp])
        for name, info in stage_parts(model, stage):
            chunk, key = home_of(model, name)
            whole = EMBEDDING if name == OUTPUT and model.tied else name
            key = f"{chunks[chunk]}.{key}"
            yield Part(whole, key, ranks, tp * info.nbytes, _operation(model, whole))


def _torch_dist(model: Model) -> Iterator[Part]:
    files = (Path(model.target.folder) / DATA_FILE,)
    for name, info in model.infos.items():
        cut = cut_of(name)
        rows = model.vocabulary if cut == "vocabulary" else info.shape[0]
        shape = (rows, *info.shape[1:])
        check_cut(shape, cut, model.target.tp)
        nbytes = TensorInfo(shape, info.dtype).nbytes
        layer = layer_of(name)
        key = stacked(name) if layer is None else f"{stacked(name)}[{layer}]"
        yield Part(name, key, files, nbytes, _operation(model, name))


def _operation(model: Model, name: str) -> str:
    """In words: rows that pad a vocabulary, and how the ranks share it."""
    cut, tp, rows = cut_of(name), model.target.tp, model.infos[name].shape[0]
    steps = []
    if cut == "vocabulary" and model.vocabulary != rows:
        steps.append(f"padded to {model.vocabulary} rows")
    if tp > 1 and cut != "whole":
        axis = {"columns": "columns", "halves": "rows of both halves"}.get(cut, "rows")
        steps.append(f"{axis} cut in {tp}")
    elif tp > 1 and model.target.layout == "legacy":
        steps.append(f"{tp} copies")
    return ", ".join(steps)
