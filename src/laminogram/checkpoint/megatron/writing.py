"""Writing Megatron checkpoints: from a model's tensors, or from one way of cutting to another."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from laminogram.checkpoint.fingerprint import hash_tensors
from laminogram.checkpoint.megatron.filling import Journal, Progress, Task, fill
from laminogram.checkpoint.megatron.making import cut_anew, from_stack
from laminogram.checkpoint.megatron.naming import EMBEDDING
from laminogram.checkpoint.megatron.opening import TRACKER, read_megatron
from laminogram.checkpoint.megatron.placing import parts_of
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
from laminogram.stack.config import StackConfig

WORKERS = min(4, os.cpu_count() or 1)
"""Tensors in the making at the same time, unless told otherwise."""
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
    workers: int = WORKERS,
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
    model = from_stack(tensors, config, Target(**choices), infos=infos, lossy=lossy)
    return write_model(
        model,
        destination,
        config.source,
        extra_files=extra_files,
        resume=resume,
        workers=workers,
        progress=progress,
    )


def reshard(
    source: str | Path,
    destination: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    vocab_size: int | None = None,
    extra_files: Iterable[str | Path] = (),
    resume: str | None = None,
    workers: int = WORKERS,
    progress: Progress | None = None,
    **choices: Any,
) -> Path:
    """Cuts a Megatron checkpoint anew: other ranks, stages, layout, names or padding.

    No tensor takes the way through another form; bytes stay what they are. config and vocab_size
    as in `read_megatron`, everything else as in `write_megatron`.
    """
    described = read_megatron(source, config=config, vocab_size=vocab_size)
    return write_model(
        cut_anew(described, Target(**choices)),
        destination,
        described.config.source,
        extra_files=extra_files,
        resume=resume,
        workers=workers,
        progress=progress,
    )


def write_model(
    model: Model,
    destination: str | Path,
    source: Mapping[str, Any],
    *,
    extra_files: Iterable[str | Path] = (),
    resume: str | None = None,
    workers: int = WORKERS,
    progress: Progress | None = None,
    complete: Callable[[Path], None] | None = None,
) -> Path:
    """Writes what `making` made; the other arguments are as in `write_megatron`.

    source: what becomes config.json. complete: called with the finished directory before it appears
    under its name; it may add files, and what it raises keeps the directory from appearing.
    """
    files = tuple(map(Path, extra_files))
    job = _Job(model, Path(destination), source, files, resume, complete)
    return job.run(workers, progress)


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
    complete: Callable[[Path], None] | None = None

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
        needed = sum(part.nbytes for part in parts_of(self.model))
        self.destination.parent.mkdir(parents=True, exist_ok=True)
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
        write_text(self.work / TRACKER, self.model.target.tracker)
        if self.complete is not None:
            self.complete(self.work)
        journal.remove()
        self.work.rename(self.destination)
