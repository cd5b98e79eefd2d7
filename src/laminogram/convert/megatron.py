"""Conversions to Megatron's checkpoints: written by `checkpoint.megatron`, proved and told here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

import laminogram
from laminogram.checkpoint.apply import (
    MANIFEST,
    Weights,
    companions,
    folder_of,
    refuse_existing,
)
from laminogram.checkpoint.fingerprint import hash_tensors
from laminogram.checkpoint.megatron import Target
from laminogram.checkpoint.megatron.arguments import arguments_of, inexpressible
from laminogram.checkpoint.megatron.making import compose, cut_anew
from laminogram.checkpoint.megatron.naming import LAYOUT
from laminogram.checkpoint.megatron.placing import Part, parts_of
from laminogram.checkpoint.megatron.target import Model
from laminogram.checkpoint.megatron.writing import WORKERS, write_model
from laminogram.checkpoint.resolve import resolve
from laminogram.checkpoint.write import write_text
from laminogram.convert.changes import Change
from laminogram.convert.prepare import Prepared, opened
from laminogram.convert.proof import Proof, prove
from laminogram.convert.rotary import rotary_changes
from laminogram.convert.route import Form, Route
from laminogram.convert.write import SMALL, graded
from laminogram.errors import CheckpointError
from laminogram.stack.config import StackConfig

NAME = "megatron"
"""What a conversion's target is called that is Megatron's and no family's."""


class Row(NamedTuple):
    """A tensor as some of the written files hold it: what they call it, the files, the source's
    tensors it comes from, what is done to them, and its bytes in all these files together."""

    key: str
    files: tuple[Path, ...]
    origins: tuple[str, ...]
    operation: str
    nbytes: int


@dataclass(frozen=True)
class ToMegatron:
    """A conversion that is known to be possible and not yet written: see `prepare_megatron`."""

    prepared: Prepared
    model: Model
    parts: Sequence[Part]
    choices: Mapping[str, Any]

    @cached_property
    def rows(self) -> list[Row]:
        """Every tensor of every pipeline stage."""
        found = []
        for part in self.parts:
            origins, made = self._origin(part.name)
            operation = ", ".join(filter(None, (made, part.operation)))
            found.append(Row(part.key, part.files, origins, operation, part.nbytes))
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in all files, which is what writing needs of the disk."""
        return sum(part.nbytes for part in self.parts)

    @property
    def memory(self) -> int:
        """Bytes of memory that writing needs at most, beyond pages that the system may take back:
        the largest tensors, as many as are in the making, each with what it is made from."""
        sizes = sorted(info.nbytes for info in self.model.infos.values())
        return 3 * sum(sizes[-WORKERS:])

    def _origin(self, name: str) -> tuple[tuple[str, ...], str]:
        """The source's tensors of a global name, and how the whole tensor is made from them."""
        described = self.prepared.described
        if described.layout is LAYOUT:
            return ((name,), "") if name in described.checkpoint.tensors else ((), "zeros")
        planned = self.prepared.tensors.get(name)
        return ((), "zeros") if planned is None else (planned.origins, planned.operation)


def prepare_megatron(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    vocab_size: int | None = None,
    **choices: Any,
) -> ToMegatron:
    """Check that a model can be written as Megatron's, cut as `choices` say; write nothing.

    Arguments and errors are those of `to_megatron`.
    """
    target = Target(**choices)
    found = resolve(source)
    described = opened(found.path, vocab_size=vocab_size)
    source_config = described.config
    changes = _within_training(source_config)
    config = changes[-1].config if changes else source_config
    route = Route(Form(described.family, LAYOUT), changes, dict(source_config.source), config)
    weights = Weights(described, {})
    prepared = Prepared(found.name, found.path, described, route, weights, {}, dtype)
    if described.layout is LAYOUT:
        model = cut_anew(described, target, dtype)
    else:
        arguments = arguments_of(config)
        infos = {name: planned.info for name, planned in prepared.tensors.items()}
        model = compose(infos, prepared.make, arguments, target)
    return ToMegatron(prepared, model, parts_of(model), choices)


def _within_training(config: StackConfig) -> tuple[Change, ...]:
    """What is to be left out before Megatron can express a model, where that plays no part within
    the trained length; else nothing, and the refusal lists all that it cannot."""
    if not inexpressible(config):
        return ()
    found = (one for one in rotary_changes(config) if not inexpressible(one.config))
    return tuple(one for one in found if one.limit is not None)[:1]


def to_megatron(
    source: str | Path,
    dst: str | Path,
    *,
    verify: bool | None = None,
    dtype: torch.dtype | None = None,
    vocab_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **choices: Any,
) -> tuple[Path, Proof | None]:
    """Write a model as a Megatron checkpoint; one that already is Megatron's is cut anew.

    choices: the fields of `laminogram.checkpoint.megatron.Target` (tp, pp, layout, ...). dtype: of
    the result, None for the source's. See `write_prepared`; other arguments are as in
    `laminogram.convert.write.convert`. Errors are those of `write_megatron`.
    """
    refuse_existing(dst)
    conversion = prepare_megatron(source, dtype=dtype, vocab_size=vocab_size, **choices)
    return write_prepared(conversion, dst, verify=verify, progress=progress)


def write_prepared(
    conversion: ToMegatron,
    dst: str | Path,
    *,
    verify: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, Proof | None]:
    """Write what was prepared as the directory `dst`, which appears once it is complete and proved.

    verify: read the written ranks back and run them as one stack, None where the model is small; a
    result that fails is not kept. `progress(done, total)` is called with bytes.
    """
    destination = refuse_existing(dst)
    prepared = conversion.prepared
    described, folder = prepared.described, folder_of(prepared.path)
    nbytes = sum(info.nbytes for info in described.checkpoint.tensors.values())
    proofs: list[Proof] = []

    def complete(work: Path) -> None:
        if nbytes <= SMALL if verify is None else verify:
            try:
                proofs.append(prove(prepared, work))
            except CheckpointError:
                shutil.rmtree(work)
                raise
        manifest = _manifest(conversion, proofs[0] if proofs else None)
        write_text(work / MANIFEST, json.dumps(manifest, indent=2) + "\n")

    write_model(
        conversion.model,
        destination,
        described.config.source,
        extra_files=[folder / file for file in companions(prepared.path)],
        resume=prepared.name,
        progress=progress,
        complete=complete,
    )
    return destination, proofs[0] if proofs else None


def _manifest(conversion: ToMegatron, proof: Proof | None) -> dict[str, Any]:
    prepared, choices = conversion.prepared, conversion.choices
    described = prepared.described
    return {
        "laminogram": laminogram.__version__,
        "source": prepared.name,
        "from": {"family": described.family.name, "layout": described.layout.name},
        "to": {"family": described.family.name, "layout": NAME},
        **graded(prepared),
        "choices": {key: value for key, value in choices.items() if value is not None},
        "proof": None if proof is None else proof.to_dict(),
        "weights_hash": None if proof is None else hash_tensors(prepared.weights),
    }
