"""Writing Megatron checkpoints: from a model's tensors, or from one way of cutting to another."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laminogram.checkpoint.fingerprint import hash_tensors
from laminogram.checkpoint.megatron.arguments import arguments_of, dtype_arguments
from laminogram.checkpoint.megatron.filling import Journal, Progress, Task, fill, nbytes
from laminogram.checkpoint.megatron.naming import EMBEDDING, LAYOUT, LINEARS, OUTPUT
from laminogram.checkpoint.megatron.opening import TRACKER, read_megatron
from laminogram.checkpoint.megatron.target import Model, Target
from laminogram.checkpoint.megatron.write_legacy import prepare_legacy
from laminogram.checkpoint.megatron.write_torch_dist import (
    finish_torch_dist,
    lay_out,
    prepare_torch_dist,
)
from laminogram.checkpoint.reading import TensorInfo
from laminogram.checkpoint.write import write_text
from laminogram.errors import CheckpointError
from laminogram.stack.config import AttentionConfig, StackConfig

_PLAIN = (str, int, float, bool, type(None), torch.dtype)
_WORKERS = min(4, os.cpu_count() or 1)
_SAMPLED = 4096


def write_megatron(
    tensors: Mapping[str, Tensor],
    config: StackConfig,
    destination: str | Path,
    *,
    infos: Mapping[str, TensorInfo] | None = None,
    extra_files: Iterable[str | Path] = (),
    lossy: bool = False,
    resume: str | None = None,
    workers: int = _WORKERS,
    progress: Progress | None = None,
    **choices: Any,
) -> Path:
    """Writes a model as a checkpoint that Megatron-LM loads. Returns `destination`.

    tensors: the stack's parameters by our names, each asked for once, by several threads. infos:
    their shapes and dtypes, where looking would make them. choices: the fields of `Target` (tp, pp,
    vpp, stages, layout, norms, vocab_padding, ...). extra_files (a tokenizer) are copied along, and
    `config.source` is written as config.json.

    lossy: leave out rotary scaling that acts only beyond the trained length. resume: a name for
    this very work (what is converted); a stopped one of the same name, shapes, choices and sampled
    weights is continued. workers: tensors in the making at the same time. progress: called with
    bytes written and to write.

    The directory appears under its name once it is complete. FamilyError where Megatron cannot
    express the model, ConfigError where it cannot be cut so, CheckpointError where `destination`
    exists or the disk is too small; all before anything is written.
    """
    known = dict(
        infos or {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in tensors.items()}
    )
    arguments = arguments_of(_within_trained_length(config) if lossy else config)
    mapping = LAYOUT.bind(config)
    blank = {
        name: torch.empty(info.shape, dtype=info.dtype, device="meta")
        for name, info in known.items()
    }
    wanted: dict[str, TensorInfo] = {}
    for name in mapping.names_of_theirs(list(known)):
        bound = mapping.theirs(name)
        assert bound is not None
        made = bound.write(blank.__getitem__)
        wanted[name] = TensorInfo(tuple(made.shape), made.dtype)

    def get(name: str) -> Tensor:
        bound = mapping.theirs(name)
        assert bound is not None
        return bound.write(tensors.__getitem__)

    model = _model(wanted, get, arguments, Target(**choices))
    job = _Job(model, Path(destination), config.source, tuple(map(Path, extra_files)), resume)
    return job.run(workers, progress)


def reshard(
    source: str | Path,
    destination: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    vocab_size: int | None = None,
    extra_files: Iterable[str | Path] = (),
    resume: str | None = None,
    workers: int = _WORKERS,
    progress: Progress | None = None,
    **choices: Any,
) -> Path:
    """Cuts a Megatron checkpoint anew: other ranks, stages, layout, names or padding.

    No tensor takes the way through another form; bytes stay what they are. config and vocab_size
    as in `read_megatron`, everything else as in `write_megatron`.
    """
    described = read_megatron(source, config=config, vocab_size=vocab_size)
    checkpoint = described.checkpoint
    infos = dict(checkpoint.tensors)
    if described.config.head.tied and OUTPUT in infos:
        if not torch.equal(checkpoint.get(OUTPUT), checkpoint.get(EMBEDDING)):
            raise CheckpointError(
                f"{source}: {OUTPUT} differs from {EMBEDDING}; under its arguments the model has "
                "one tensor for both"
            )
        del infos[OUTPUT]
    stored = checkpoint.extras.get("arguments") or {}
    kept = {name: value for name, value in stored.items() if _is_plain(value)}
    arguments = arguments_of(described.config)
    model = _model(infos, checkpoint.get, arguments, Target(**choices), kept)
    files = tuple(map(Path, extra_files))
    job = _Job(model, Path(destination), described.config.source, files, resume)
    return job.run(workers, progress)


def _within_trained_length(config: StackConfig) -> StackConfig:
    layers = []
    for layer in config.layers:
        attn = layer.attn
        rope = attn.rope if isinstance(attn, AttentionConfig) else None
        if isinstance(attn, AttentionConfig) and rope is not None and rope.kind == "dynamic":
            attn = replace(attn, rope=replace(rope, kind="default", parameters={}))
        layers.append(replace(layer, attn=attn))
    return replace(config, layers=tuple(layers))


def _model(
    infos: Mapping[str, TensorInfo],
    get: Callable[[str], Tensor],
    arguments: Mapping[str, Any],
    target: Target,
    kept: Mapping[str, Any] | None = None,
) -> Model:
    """The model with what Megatron needs besides: biases of zeros where one bias brings all."""
    complete = dict(infos)
    if arguments["add_bias_linear"]:
        for layer in range(int(arguments["num_layers"])):
            for module in LINEARS:
                stem = f"decoder.layers.{layer}.{module}"
                weight = infos[f"{stem}.weight"]
                rows = TensorInfo(weight.shape[:1], weight.dtype)
                complete.setdefault(f"{stem}.bias", rows)
    dtype = infos[EMBEDDING].dtype

    def made(name: str) -> Tensor:
        if name in infos:
            return get(name)
        return torch.zeros(complete[name].shape, dtype=complete[name].dtype)

    said = {**arguments, **dtype_arguments(dtype)}
    model = Model(complete, made, said, target, dict(kept or {}))
    model.check()
    return model


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)


def _samples(model: Model) -> str:
    """A hash of some of the weights: other weights under the same name are other work."""
    last = f"decoder.layers.{model.stages.num_layers - 1}"
    names = (
        EMBEDDING,
        f"{last}.self_attention.linear_qkv.weight",
        f"{last}.mlp.linear_fc2.weight",
        "decoder.final_layernorm.weight",
    )
    return hash_tensors({name: _strided(model.get(name)) for name in names})


def _strided(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLED)]


@dataclass(frozen=True)
class _Job:
    """One checkpoint on its way to the disk, in a folder beside its destination."""

    model: Model
    destination: Path
    source: Mapping[str, Any]
    extra_files: tuple[Path, ...]
    name: str | None

    @property
    def work(self) -> Path:
        """Where it grows until it is complete."""
        return self.destination.parent / f".{self.destination.name}.partial"

    def run(self, workers: int, progress: Progress | None) -> Path:
        """Writes, or continues writing, and publishes the whole directory at its end."""
        self._check()
        journal = Journal(self.work, self._key())
        fresh = self.name is None or journal.finished() is None
        if fresh:
            shutil.rmtree(self.work, ignore_errors=True)
        folder = self.work / self.model.target.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            finish, tasks = self._prepare(folder, fresh)
            if fresh:
                journal.begin()
            fill(tasks, journal, workers=workers, progress=progress)
            finish()
            self._publish(journal)
        except BaseException:
            if self.name is None:
                shutil.rmtree(self.work, ignore_errors=True)
            raise
        return self.destination

    def _check(self) -> None:
        if self.destination.exists():
            raise CheckpointError(f"{self.destination} exists; nothing is ever overwritten")
        missing = [str(file) for file in self.extra_files if not file.is_file()]
        if missing:
            raise CheckpointError(f"files to copy along do not exist: {', '.join(missing)}")
        self.destination.parent.mkdir(parents=True, exist_ok=True)
        needed = sum(nbytes(info) for info in self.model.infos.values())
        free = shutil.disk_usage(self.destination.parent).free
        if needed > free and not self.work.is_dir():
            raise CheckpointError(
                f"{self.destination} would take {needed:,} bytes; its disk has {free:,} left"
            )

    def _key(self) -> str:
        """A hash of what says what the bytes will be; of the tensors' own it has samples."""
        said = {
            "samples": "" if self.name is None else _samples(self.model),
            "name": self.name,
            "infos": {name: repr(info) for name, info in self.model.infos.items()},
            "state": repr(self.model.state),
            "target": repr(self.model.target),
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def _prepare(self, folder: Path, fresh: bool) -> tuple[Callable[[], None], list[Task]]:
        if self.model.target.layout == "legacy":
            return lambda: None, prepare_legacy(folder, self.model, fresh=fresh)
        table = lay_out(folder, self.model)
        tasks = prepare_torch_dist(folder, self.model, table, fresh=fresh)
        return lambda: finish_torch_dist(folder, self.model, table), tasks

    def _publish(self, journal: Journal) -> None:
        for file in self.extra_files:
            shutil.copyfile(file, self.work / file.name)
        write_text(self.work / "config.json", json.dumps(dict(self.source), indent=2) + "\n")
        journal.remove()
        write_text(self.work / TRACKER, self.model.target.tracker)
        self.work.rename(self.destination)
