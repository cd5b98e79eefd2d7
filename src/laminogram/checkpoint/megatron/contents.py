"""What a Megatron checkpoint of either layout gives: whole tensors by global name, and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from laminogram.checkpoint.megatron.naming import EMBEDDING, OUTPUT
from laminogram.checkpoint.reading import TensorInfo
from laminogram.errors import CheckpointError


class Whole(Protocol):
    """A tensor of the model, put together when it is asked for."""

    @property
    def info(self) -> TensorInfo:
        """Its shape and dtype."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that its parts lie in, each once."""
        ...

    def get(self) -> Tensor:
        """The tensor; mapped from its file where it lies there in one piece."""
        ...


@dataclass(frozen=True)
class Contents:
    """An open checkpoint: `tensors` by global name, vocabularies still padded.

    `arguments` are those of the run that wrote it, None where it has none. `tp`, `pp` and `vpp` are
    1 for a layout that is cut in no particular way.
    """

    folder: Path
    layout: str
    tensors: Mapping[str, Whole]
    arguments: Mapping[str, Any] | None
    iteration: int = 0
    checkpoint_version: float = 3.0
    tp: int = 1
    pp: int = 1
    vpp: int = 1
    counts: tuple[int, ...] = field(default=())

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding as stored."""
        if EMBEDDING not in self.tensors:
            listed = ", ".join(list(self.tensors)[:4]) or "none"
            raise CheckpointError(
                f"{self.folder} has no {EMBEDDING}; its tensors are {listed}, ..."
            )
        return self.tensors[EMBEDDING].info.shape[0]


@dataclass(frozen=True)
class Trimmed:
    """A vocabulary without the rows that only pad it."""

    whole: Whole
    rows: int

    @property
    def info(self) -> TensorInfo:
        """Its shape and dtype."""
        info = self.whole.info
        return TensorInfo((self.rows, *info.shape[1:]), info.dtype)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the whole, padding included."""
        return self.whole.files

    def get(self) -> Tensor:
        """The true rows."""
        return self.whole.get()[: self.rows]


def trimmed(contents: Contents, vocab_size: int) -> dict[str, Whole]:
    """The tensors with vocabularies of `vocab_size` rows; CheckpointError where fewer are there."""
    if vocab_size > contents.padded_vocab_size:
        raise CheckpointError(
            f"{contents.folder} has {contents.padded_vocab_size} rows of vocabulary; the model "
            f"should have {vocab_size}"
        )
    return {
        name: Trimmed(whole, vocab_size) if name in (EMBEDDING, OUTPUT) else whole
        for name, whole in contents.tensors.items()
    }
