"""Conversions to Megatron's checkpoints: written by `checkpoint.megatron`, proved and told here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

import laminogram
from laminogram.checkpoint.apply import (
    MANIFEST,
    Weights,
    companions,
    folder_of,
    refuse_existing,
)
from laminogram.checkpoint.fingerprint import hash_tensors
from laminogram.checkpoint.load import Described
from laminogram.checkpoint.megatron import is_megatron, reshard, write_megatron
from laminogram.checkpoint.resolve import resolve
from laminogram.checkpoint.write import write_text
from laminogram.convert.changes import Grade
from laminogram.convert.prepare import opened
from laminogram.convert.proof import Proof, check, compare
from laminogram.convert.write import SMALL
from laminogram.errors import CheckpointError

NAME = "megatron"
"""What a conversion's target is called that is Megatron's and no family's."""


class _Stored(Mapping[str, Tensor]):
    """The source's parameters by our names, each in the dtype in which it is stored."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> Tensor:
        return self._weights.stored(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def to_megatron(
    source: str | Path,
    dst: str | Path,
    *,
    lossy: bool = False,
    verify: bool | None = None,
    vocab_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **choices: Any,
) -> tuple[Path, Proof | None]:
    """Write a model as a Megatron checkpoint; one that already is Megatron's is cut anew.

    choices: the fields of `laminogram.checkpoint.megatron.Target` (tp, pp, layout, ...). verify:
    read the written ranks back and run them as one stack, None where the model is small; a result
    that fails is not kept. Other arguments are as in `laminogram.convert.write.convert`. Errors are
    those of `write_megatron`.
    """
    destination = refuse_existing(dst)
    found = resolve(source)
    described = opened(found.path, vocab_size=vocab_size)
    weights = Weights(described, {})
    files = [folder_of(found.path) / file for file in companions(found.path)]
    if is_megatron(found.path):
        reshard(
            found.path,
            destination,
            vocab_size=vocab_size,
            extra_files=files,
            resume=found.name,
            progress=progress,
            **choices,
        )
    else:
        write_megatron(
            _Stored(weights),
            described.config,
            destination,
            extra_files=files,
            lossy=lossy,
            resume=found.name,
            progress=progress,
            **choices,
        )
    nbytes = sum(info.nbytes for info in described.checkpoint.tensors.values())
    proof = None
    if nbytes <= SMALL if verify is None else verify:
        result = opened(destination, vocab_size=described.config.vocab_size)
        proof = compare(described, result, {})
        if not lossy:
            _keep_if_equal(proof, destination)
    manifest = _manifest(found.name, described, proof, choices, lossy=lossy)
    manifest["weights_hash"] = None if proof is None else hash_tensors(weights)
    write_text(destination / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return destination, proof


def _manifest(
    name: str, described: Described, proof: Proof | None, choices: Mapping[str, Any], *, lossy: bool
) -> dict[str, Any]:
    return {
        "laminogram": laminogram.__version__,
        "source": name,
        "from": {"family": described.family.name, "layout": described.layout.name},
        "to": {"family": described.family.name, "layout": NAME},
        "grade": str(Grade.LOSSY if lossy else Grade.SAME_BYTES),
        "choices": {key: value for key, value in choices.items() if value is not None},
        "proof": None if proof is None else proof.to_dict(),
    }


def _keep_if_equal(proof: Proof, destination: Path) -> None:
    try:
        check(proof)
    except CheckpointError:
        shutil.rmtree(destination)
        raise
