"""A plan written into a checkpoint of its own, which other programs open and run as it stands.

    apply_plan("tiny-llama", "0-2, 4-5", "without-3")

The result gives the logits that this engine gives under the plan, from the bytes of the source's
tensors. It appears under its name once it is complete. Tensors are mapped and written one by one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import laminogram
from laminogram.checkpoint.fingerprint import hash_tensors
from laminogram.checkpoint.load import Described, describe
from laminogram.checkpoint.loading import bind, load_into
from laminogram.checkpoint.reading import Checkpoint, open_checkpoint
from laminogram.checkpoint.rearrange import Origin, Rearrangement, rearrange
from laminogram.checkpoint.resolve import resolve
from laminogram.checkpoint.write import MAX_SHARD_BYTES, write_shards, write_text
from laminogram.errors import CheckpointError
from laminogram.families.base import Binding, Halved, TensorMap
from laminogram.plans import Plan
from laminogram.stack.stack import Stack

MANIFEST = "laminogram.json"
# What travels with the weights; nothing of it is executed, and code is left behind.
_COMPANIONS = (
    "tokenizer*.json",
    "tokenizer.model",
    "*.tiktoken",
    "vocab.*",
    "merges.txt",
    "rwkv_vocab_v*.txt",
    "20B_tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "LICENSE*",
    "NOTICE*",
)
Progress = Callable[[int, int], None]


class Weights(Mapping[str, Tensor]):
    """The source's parameters as a stack holds them, each mapped when it is asked for.

    Made by opening the source as a stack without memory, so that whatever is missing, misshaped or
    unexpected there is told by a CheckpointError.
    """

    def __init__(self, described: Described, options: Mapping[str, Any]) -> None:
        self.options, self._checkpoint = dict(options), described.checkpoint
        layout, config = described.layout, described.config
        stack = Stack(config, device="meta")
        load_into(stack, self._checkpoint, layout, config=config, device="meta", options=options)
        self._mapping = bind(self._checkpoint, layout, config, options)
        self._keys = {layout.canonical(key): key for key in self._checkpoint.tensors}
        self._parameters = dict(stack.named_parameters())

    def __getitem__(self, name: str) -> Tensor:
        return self.stored(name).to(self._parameters[name].dtype)

    def __contains__(self, name: object) -> bool:
        return name in self._parameters

    def stored(self, name: str) -> Tensor:
        """The parameter in the dtype in which the source holds it."""
        bound = self._mapping.ours(name)
        assert bound is not None
        return bound.read(lambda theirs: self._checkpoint.get(self._keys[theirs]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


@dataclass(frozen=True)
class Prepared:
    """A plan that is known to be expressible and not yet written: see `prepare`."""

    name: str
    path: Path
    described: Described
    standalone: bool
    """Whether the source is a file that tells its sizes itself, without config.json."""
    made: Rearrangement
    weights: Weights

    @property
    def weights_file(self) -> str:
        """The name of the file of weights: a `.pth` file stays one, all else is safetensors."""
        path = self.described.checkpoint.path
        return path.name if path.suffix == ".pth" else "model.safetensors"

    @property
    def architecture(self) -> str | None:
        """The class of `transformers` that the configuration names."""
        named = self.made.source.get("architectures") or [None]
        return None if self.standalone else named[0]

    def remarks(self) -> list[str]:
        """What was done to say the plan that the plan itself does not show."""
        lines = []
        if self.made.repeated:
            often = ", ".join(f"{layer} {n}x" for layer, n in self.made.repeated.items())
            lines.append(f"copies of shared layers ({often}): {self.made.cost_of_copies()}")
        for place, step in self.made.halves:
            other = "ffn" if step.part == "attn" else "attn"
            lines.append(
                f"place {place} is {step}: the whole layer is written, its {other} with an output "
                "projection of zeros, so that it is computed and adds 0"
            )
        return lines


def prepare(
    source: str | Path, plan: Plan | str, *, copy: bool = False, **options: Any
) -> Prepared:
    """Check that `plan` can be written as a checkpoint of the source's format; write nothing.

    source: a bundled name, a directory, a file or a hub id. copy: a layer that runs at several
    places is written once for each. options: how the source's tensors are laid out (`rescaled=6`).
    PlanError says why a plan cannot be written, CheckpointError what is wrong with the source.
    """
    plan = Plan.parse(plan) if isinstance(plan, str) else plan
    found = resolve(source)
    described = describe(found.path)
    family, shapes = described.family, described.checkpoint.shapes
    has_file = found.path.is_dir() and (found.path / "config.json").is_file()
    standalone = not has_file and bool(family.recognise and family.recognise(shapes))
    made = rearrange(described, plan, copy=copy, standalone=standalone)
    weights = Weights(described, options)
    return Prepared(found.name, found.path, described, standalone, made, weights)


def apply_plan(
    source: str | Path,
    plan: Plan | str,
    dst: str | Path,
    copy: bool = False,
    *,
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    **options: Any,
) -> Path:
    """Write a model that runs `plan` from its first layer to its last; return its directory.

    See `prepare` and `write`: nothing is written where either refuses.
    """
    refuse_existing(dst)
    prepared = prepare(source, plan, copy=copy, **options)
    return write(prepared, dst, progress=progress, max_shard_bytes=max_shard_bytes)


def write(
    prepared: Prepared,
    dst: str | Path,
    *,
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write what was prepared as the directory `dst`, which appears once it is complete.

    `progress(done, total)` is called with bytes. CheckpointError where `dst` exists or the disk has
    no room for it.
    """
    destination = refuse_existing(dst)
    check_room(destination, prepared.made.nbytes)
    manifest = _manifest(prepared)
    destination.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
    try:
        work.chmod(0o755)
        _write_weights(prepared, work, progress or (lambda done, total: None), max_shard_bytes)
        if not prepared.standalone:
            text = json.dumps(dict(prepared.made.source), indent=2, ensure_ascii=False)
            write_text(work / "config.json", text + "\n")
        for file in companions(prepared.path):
            target = work / file
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(folder_of(prepared.path) / file, target)
        write_text(work / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        work.rename(destination)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return destination


def refuse_existing(dst: str | Path) -> Path:
    """The path of a directory to be made; CheckpointError where something is there."""
    destination = Path(dst).expanduser()
    if os.path.lexists(destination):
        raise CheckpointError(f"{destination} exists; nothing is ever written over it")
    return destination


def check_room(destination: Path, nbytes: int) -> None:
    """CheckpointError where the disk of `destination` has not that many bytes left."""
    folder = next(parent for parent in destination.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise CheckpointError(
            f"{destination} needs {nbytes / 1e9:,.2f} GB; its disk has {free / 1e9:,.2f} GB free"
        )


def _write_weights(
    prepared: Prepared, work: Path, progress: Progress, max_shard_bytes: int
) -> None:
    tensors = prepared.made.tensors
    checkpoint, file = prepared.described.checkpoint, work / prepared.weights_file
    move = _Mover(prepared)
    if file.suffix != ".pth":
        done = 0

        def make(name: str) -> Tensor:
            nonlocal done
            done += tensors[name].nbytes
            progress(done, prepared.made.nbytes)
            return move(checkpoint, tensors[name])

        infos = {name: origin.info for name, origin in tensors.items()}
        write_shards(work, infos, make, max_shard_bytes)
        return
    # torch writes what shares memory once: each copy of a layer gets a mapping of its own.
    turns = 1 + max(origin.turn for origin in tensors.values())
    opened = [checkpoint, *(open_checkpoint(checkpoint.path) for _ in range(turns - 1))]
    whole: dict[str, Any] = {name: move(opened[o.turn], o) for name, o in tensors.items()}
    with file.open("wb") as stream:
        torch.save(whole | dict(checkpoint.extras), stream)
        stream.flush()
        os.fsync(stream.fileno())
    progress(prepared.made.nbytes, prepared.made.nbytes)


class _Mover:
    """Makes the tensor at a place: the source's own, but for what depends on the place."""

    def __init__(self, prepared: Prepared) -> None:
        source = prepared.described
        options = prepared.weights.options
        self._reads = bind(source.checkpoint, source.layout, source.config, options)
        # What the file says of itself is kept; what the caller said of it is undone for good.
        self._writes = bind(source.checkpoint, source.layout, source.config)

    def __call__(self, checkpoint: Checkpoint, origin: Origin) -> Tensor:
        if origin.idle:
            return torch.zeros(origin.info.shape, dtype=origin.info.dtype)
        tensor = checkpoint.get(origin.key)
        before = self._binding(self._reads, origin.layer)
        after = self._binding(self._writes, origin.place)
        # The one operation that reads a layer's number; it commutes with all others.
        for operation in getattr(origin.rule, "operations", ()):
            if isinstance(operation, Halved):
                tensor = operation.inverse(operation.forward(tensor, before), after)
        return tensor

    @staticmethod
    def _binding(mapping: TensorMap, index: int) -> Binding:
        return Binding(mapping.config, {"i": index}, mapping.options)


def _manifest(prepared: Prepared) -> dict[str, Any]:
    """What the result came from: the hash is that of the source as `load` opens it."""
    made = prepared.made
    return {
        "laminogram": laminogram.__version__,
        "source": prepared.name,
        "weights_hash": hash_tensors(prepared.weights),
        "options": prepared.weights.options,
        "plan": str(made.plan),
        "layers": [str(step) for step in made.plan.steps],
        "parameters": made.parameters,
        "remarks": prepared.remarks(),
    }


def folder_of(path: Path) -> Path:
    """The directory of a model that is one, or a file in one."""
    return path if path.is_dir() else path.parent


def companions(path: Path) -> list[Path]:
    """Files to copy, relative to the model's folder; beside a single file, only its tokenizer."""
    patterns = _COMPANIONS if path.is_dir() else ("tokenizer.json",)
    folder = folder_of(path)
    found = {file.relative_to(folder) for pattern in patterns for file in folder.glob(pattern)}
    return sorted(file for file in found if (folder / file).is_file() and file.suffix != ".py")
