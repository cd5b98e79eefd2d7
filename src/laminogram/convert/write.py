"""Writing a conversion: streamed into a folder beside its destination, renamed once it is complete.

    .NAME.converting/journal.json   which files are finished, by size and hash
    .NAME.converting/result/        what becomes NAME; its config.json comes last
    .NAME.converting/tensors/       where the result is one `.pth` file: what it is made from

A conversion that is killed, or whose disk is full, leaves that folder, and the same command goes on
from it. Nothing in it opens as a model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

import laminogram
from laminogram.checkpoint.apply import MANIFEST, check_room, folder_of, refuse_existing
from laminogram.checkpoint.fingerprint import hash_tensors
from laminogram.checkpoint.reading import TensorInfo, open_checkpoint
from laminogram.checkpoint.write import (
    MAX_SHARD_BYTES,
    plan_shards,
    stream_safetensors,
    write_index,
    write_text,
)
from laminogram.convert.companions import travel
from laminogram.convert.journal import Digests, Journal, alone
from laminogram.convert.prepare import Prepared, prepare
from laminogram.convert.proof import Proof, prove
from laminogram.errors import CheckpointError

SMALL = 1_000_000_000
"""Bytes of weights up to which a conversion is proved unless told otherwise."""
PTH = "model.pth"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Converted:
    """A finished conversion: its directory, its proof where one was made, and remarks."""

    path: Path
    proof: Proof | None
    remarks: list[str] = field(default_factory=list)


def convert(
    source: str | Path,
    dst: str | Path,
    to: str | None = None,
    *,
    verify: bool | None = None,
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    **how: Any,
) -> Converted:
    """Write `source` as family `to` into the new directory `dst`: see `prepare` and `write`."""
    refuse_existing(dst)
    prepared = prepare(source, to, **how)
    return write(prepared, dst, verify=verify, progress=progress, max_shard_bytes=max_shard_bytes)


def write(
    prepared: Prepared,
    dst: str | Path,
    *,
    verify: bool | None = None,
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    workers: int | None = None,
) -> Converted:
    """Write what was prepared as the directory `dst`, which appears once it is complete.

    verify: prove the result, None where it is small. `progress(done, total)` is called with bytes.
    CheckpointError where `dst` exists, the disk has no room or writing fails; then the same call
    goes on from what is finished. A result that fails its proof is not kept.
    """
    destination = refuse_existing(dst)
    verify = prepared.nbytes <= SMALL if verify is None else verify
    work = destination.parent / f".{destination.name}.converting"
    job = _Job(prepared, work, workers or min(4, os.cpu_count() or 1), max_shard_bytes, progress)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with alone(work):
            job.clean()
            check_room(destination, prepared.disk - job.finished)
            done = _finish(job, destination, verify)
    except OSError as error:
        raise CheckpointError(
            f"{destination} could not be written: {error}. What is finished stays in {work}, and "
            "the same command goes on from there"
        ) from error
    shutil.rmtree(work, ignore_errors=True)
    return done


def _finish(job: _Job, destination: Path, verify: bool) -> Converted:
    prepared, result = job.prepared, job.result
    job.write_tensors()
    remarks = travel(prepared, result)
    if not prepared.form.standalone:
        text = json.dumps(_told(prepared), indent=2, ensure_ascii=False)
        write_text(result / "config.json", text + "\n")
    proof = None
    if verify and prepared.described.config.score is None:
        try:
            proof = prove(prepared, result)
        except CheckpointError:
            shutil.rmtree(job.work, ignore_errors=True)
            raise
    manifest = _manifest(job, proof, remarks, hashed=verify)
    write_text(result / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    refuse_existing(destination)
    result.rename(destination)
    return Converted(destination, proof, remarks)


class _Job:
    """The files of one conversion under way."""

    def __init__(
        self,
        prepared: Prepared,
        work: Path,
        workers: int,
        max_shard_bytes: int,
        progress: Progress | None,
    ) -> None:
        self.prepared, self.work, self.workers = prepared, work, workers
        self.result = work / "result"
        self.folder = work / "tensors" if prepared.form.standalone else self.result
        infos = {name: planned.info for name, planned in prepared.tensors.items()}
        self.shards = plan_shards(infos, max_shard_bytes)
        self.journal = Journal(work, _identity(prepared, self.shards))
        self._progress, self._done, self._lock = progress, 0, Lock()

    def clean(self) -> None:
        """Keep what an earlier run of the same conversion finished, and nothing else."""
        if not self.journal.read():
            for old in (self.result, self.work / "tensors"):
                shutil.rmtree(old, ignore_errors=True)
        for folder in (self.result, self.folder):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
            for file in folder.rglob("*"):
                if file.is_file() and file.name not in self.journal.files:
                    file.unlink()

    @property
    def finished(self) -> int:
        """Bytes of the files that an earlier run finished."""
        return sum(entry["bytes"] for entry in self.journal.files.values())

    def write_tensors(self) -> None:
        """Every file of tensors that is not there yet, and the index or the `.pth` file."""
        for file, infos in self.shards.items():
            if self.journal.holds(self.folder / file, self.workers):
                self._advance(sum(info.nbytes for info in infos.values()))
                continue
            digests = Digests()
            stream_safetensors(
                self.folder / file,
                infos,
                self.prepared.make,
                {"format": "pt"},
                workers=self.workers,
                watch=self._watched(digests),
            )
            size = (self.folder / file).stat().st_size
            self.journal.add(file, size, digests.of_file(infos))
        write_index(self.folder, self.shards)
        if self.prepared.form.standalone:
            _save_pth(self.folder, self.result / PTH)

    def _watched(self, digests: Digests) -> Callable[[str, memoryview], None]:
        def watch(name: str, chunk: memoryview) -> None:
            digests.watch(name, chunk)
            self._advance(len(chunk))

        return watch

    def _advance(self, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes
            if self._progress is not None:
                self._progress(self._done, self.prepared.nbytes)


def _save_pth(folder: Path, file: Path) -> None:
    """Tensors from safetensors to one `.pth` file, mapped, so that none is held in memory."""
    held = open_checkpoint(folder)
    tensors: dict[str, Tensor] = {name: held.get(name) for name in held.tensors}
    temporary = file.with_name(f".{file.name}.writing")
    with temporary.open("wb") as stream:
        torch.save(tensors, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(file)


def _told(prepared: Prepared) -> dict[str, Any]:
    """config.json's contents, with the dtype of the weights where they have one."""
    dtypes = {planned.info.dtype for planned in prepared.tensors.values()}
    told = {name: value for name, value in prepared.route.told.items() if name != "torch_dtype"}
    if len(dtypes) == 1:
        told["dtype"] = str(dtypes.pop()).removeprefix("torch.")
    return told


def _identity(prepared: Prepared, shards: Mapping[str, Mapping[str, TensorInfo]]) -> str:
    """A hash of what makes two conversions the same: the source's files and all that is done."""
    path = prepared.path
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    stats = [(one.relative_to(folder_of(path)).as_posix(), one.stat()) for one in files]
    what = {
        "laminogram": laminogram.__version__,
        "source": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats],
        "form": str(prepared.form),
        "told": prepared.route.told,
        "changes": [change.what for change in prepared.route.changes],
        "options": {name: str(value) for name, value in prepared.options.items()},
        "shards": {
            file: [[name, str(info.dtype), list(info.shape)] for name, info in infos.items()]
            for file, infos in shards.items()
        },
    }
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def graded(prepared: Prepared) -> dict[str, Any]:
    """How good a conversion is and what was changed, for the manifest."""
    route = prepared.route
    return {
        "grade": prepared.verdict,
        "limit": route.limit,
        "changes": [{"what": one.what, "grade": str(one.grade)} for one in route.changes],
        "losses": prepared.losses,
    }


def _manifest(
    job: _Job, proof: Proof | None, remarks: list[str], *, hashed: bool
) -> dict[str, Any]:
    """What the result came from, how, and how good it is. Weights that were not run are not hashed
    as a model either: that would read them all once more."""
    prepared, route = job.prepared, job.prepared.route
    return {
        "laminogram": laminogram.__version__,
        "source": prepared.name,
        "weights_hash": hash_tensors(prepared.weights) if hashed else None,
        "from": {
            "family": prepared.described.family.name,
            "layout": prepared.described.layout.name,
        },
        "to": {"family": route.form.family.name, "layout": route.form.layout.name},
        **graded(prepared),
        "options": dict(prepared.options),
        "files": job.journal.files,
        "proof": None if proof is None else proof.to_dict(),
        "remarks": remarks,
    }
