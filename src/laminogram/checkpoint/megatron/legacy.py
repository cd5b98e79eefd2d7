"""Reading the layout of one file a rank: `mp_rank_TT[_PPP]/model_optim_rng.pt`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from laminogram.checkpoint.megatron.archives import MappedFile, StoredTensor, read_archive
from laminogram.checkpoint.megatron.contents import Contents, Whole
from laminogram.checkpoint.megatron.naming import (
    Cut,
    canonical,
    cut_of,
    layer_of,
    meaningless,
    numbered,
)
from laminogram.checkpoint.megatron.records import plain
from laminogram.checkpoint.megatron.splits import grouped_rows, merge, merged_shape
from laminogram.checkpoint.reading import TensorInfo
from laminogram.errors import CheckpointError

RANK_FILES = ("model_optim_rng.pt", "model_rng.pt")
_FOLDER = re.compile(r"mp_rank_(\d{2,})(?:_(\d{3,}))?(?:_(\d{3,}))?")
_FUSED = re.compile(r".*\.linear_qkv\.(weight|bias)")


@dataclass(frozen=True)
class Parts:
    """A tensor in the files of all ranks. `heads` are a rank's, for early fused projections."""

    parts: tuple[StoredTensor, ...]
    cut: Cut
    version: float = 3.0
    heads: int = 0

    @property
    def info(self) -> TensorInfo:
        """Shape and dtype of the whole."""
        first = self.parts[0]
        return TensorInfo(merged_shape(first.shape, self.cut, len(self.parts)), first.dtype)

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the ranks that are read: of copies, the first."""
        return tuple(part.file.path for part in self._taken)

    def get(self) -> Tensor:
        """The whole: of one rank mapped from its file, of several copied together."""
        tensors = [part.get() for part in self._taken]
        if self.heads:
            tensors = [grouped_rows(tensor, self.heads, self.version) for tensor in tensors]
        return merge(tensors, self.cut)

    @property
    def _taken(self) -> tuple[StoredTensor, ...]:
        return self.parts[:1] if self.cut == "whole" else self.parts


@dataclass(frozen=True)
class _RankFile:
    """One rank's file: the tensors of its chunks, with the layers' numbers as they stand there."""

    path: Path
    chunks: tuple[Mapping[str, StoredTensor], ...]
    rest: Mapping[str, Any]

    @property
    def counts(self) -> list[int]:
        """How many layers each chunk has."""
        numbers = [{layer_of(name) for name in chunk} - {None} for chunk in self.chunks]
        for present in numbers:
            if present != set(range(len(present))):
                raise CheckpointError(f"{self.path} has layers {sorted(map(str, present))} only")
        return [len(present) for present in numbers]


def is_legacy(folder: Path) -> bool:
    """True for an iteration's folder that holds files of ranks."""
    return any(_FOLDER.fullmatch(item.name) for item in folder.iterdir() if item.is_dir())


def read_legacy(folder: Path) -> Contents:
    """Opens all ranks of an iteration's folder, reading no tensor.

    CheckpointError names a rank that is missing, damaged, or disagrees with the others.
    """
    ranks = {place: _open_rank(path) for place, path in _rank_folders(folder).items()}
    first = ranks[0, 0]
    arguments = _arguments(first)
    tp, pp = 1 + max(t for t, _ in ranks), 1 + max(p for _, p in ranks)
    if arguments is not None:
        _check_sizes(folder, arguments, tp, pp)
    version = float(first.rest.get("checkpoint_version") or 0)
    vpp = len(first.chunks)
    counts = [ranks[0, p].counts for p in range(pp)]
    order = tuple(counts[p][v] for v in range(vpp) for p in range(pp))
    heads = 0 if version >= 2 else _heads(folder, arguments) // tp
    tensors: dict[str, Whole] = {}
    for name, parts in _joined(ranks, tp, pp, vpp, order):
        cut = cut_of(name)
        early = heads if _FUSED.fullmatch(name) else 0
        if name not in tensors:
            tensors[name] = Parts(parts, cut, version, early)
    return Contents(
        folder,
        "legacy",
        tensors,
        arguments,
        iteration=int(first.rest.get("iteration") or 0),
        checkpoint_version=version,
        tp=tp,
        pp=pp,
        vpp=vpp,
        counts=order,
    )


def _rank_folders(folder: Path) -> dict[tuple[int, int], Path]:
    found: dict[tuple[int, int], Path] = {}
    for item in sorted(folder.iterdir()):
        match = _FOLDER.fullmatch(item.name)
        if match is None or not item.is_dir():
            continue
        if match.group(3):
            raise CheckpointError(
                f"{item} is a rank of an expert-parallel model, which is not read"
            )
        files = [item / name for name in RANK_FILES if (item / name).is_file()]
        if not files:
            raise CheckpointError(f"{item} has no {RANK_FILES[0]}")
        found[int(match.group(1)), int(match.group(2) or 0)] = files[0]
    tp, pp = 1 + max(t for t, _ in found), 1 + max(p for _, p in found)
    missing = [(t, p) for t in range(tp) for p in range(pp) if (t, p) not in found]
    if missing:
        named = ", ".join(f"tensor rank {t} of stage {p}" for t, p in missing[:4])
        raise CheckpointError(f"{folder} has {len(found)} of {tp * pp} ranks; missing: {named}")
    return found


def _open_rank(path: Path) -> _RankFile:
    content = read_archive(MappedFile(path))
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no checkpoint by name but a {type(content).__name__}")
    names = ["model"] if "model" in content else []
    while f"model{len(names)}" in content and "model" not in content:
        names.append(f"model{len(names)}")
    if not names:
        listed = ", ".join(map(str, list(content)[:6]))
        raise CheckpointError(f"{path} holds no model; its entries are {listed}")
    chunks = tuple(
        {
            canonical(name): tensor
            for name, tensor in _flat(content[chunk])
            if isinstance(tensor, StoredTensor) and not meaningless(name)
        }
        for chunk in names
    )
    return _RankFile(path, chunks, {k: v for k, v in content.items() if k not in names})


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of nested dictionaries under dotted names, as the oldest files nest them."""
    if not isinstance(content, dict):
        yield prefix.removesuffix("."), content
        return
    for name, value in content.items():
        yield from _flat(value, f"{prefix}{name}.")


def _arguments(rank: _RankFile) -> dict[str, Any] | None:
    found = plain(rank.rest.get("args"))
    return found if isinstance(found, dict) else None


def _check_sizes(folder: Path, arguments: Mapping[str, Any], tp: int, pp: int) -> None:
    said = {
        "tensor": int(arguments.get("tensor_model_parallel_size") or tp),
        "pipeline": int(arguments.get("pipeline_model_parallel_size") or pp),
    }
    if said["tensor"] != tp or said["pipeline"] != pp:
        raise CheckpointError(
            f"{folder} was written by {said['tensor']} tensor and {said['pipeline']} pipeline "
            f"ranks; files are there of {tp} and {pp}"
        )
    if int(arguments.get("expert_model_parallel_size") or 1) > 1:
        raise CheckpointError(f"{folder} is of an expert-parallel model, which is not read")


def _heads(folder: Path, arguments: Mapping[str, Any] | None) -> int:
    heads = (arguments or {}).get("num_attention_heads")
    if not heads:
        raise CheckpointError(
            f"{folder} is of a checkpoint version before 2, whose fused projections cannot be read "
            "without num_attention_heads, and its arguments do not have it"
        )
    return int(heads)


def _joined(
    ranks: Mapping[tuple[int, int], _RankFile],
    tp: int,
    pp: int,
    vpp: int,
    order: tuple[int, ...],
) -> Iterator[tuple[str, tuple[StoredTensor, ...]]]:
    """Every tensor under its global name, with the parts of all tensor ranks, layers in order."""
    offset = 0
    for slot, count in enumerate(order):
        chunk, stage = divmod(slot, pp)
        files = [ranks[t, stage] for t in range(tp)]
        for name in files[0].chunks[chunk]:
            parts = tuple(_part(file, vpp, chunk, name) for file in files)
            if len({(part.shape, part.dtype) for part in parts}) > 1:
                raise CheckpointError(
                    f"{name} has other shapes or dtypes in {files[0].path} than in other ranks"
                )
            local = layer_of(name)
            yield (name if local is None else numbered(name, offset + local)), parts
        offset += count


def _part(file: _RankFile, vpp: int, chunk: int, name: str) -> StoredTensor:
    if len(file.chunks) != vpp or name not in file.chunks[chunk]:
        raise CheckpointError(f"{file.path} has no {name}, which other ranks of its stage have")
    return file.chunks[chunk][name]
