"""What a report on outliers is asked for, and the inputs that a model reads for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from laminogram.errors import CheckpointError, ConfigError
from laminogram.outliers import available, find
from laminogram.probe.subject import PRECISIONS, Subject
from laminogram.stack.quantise import Scheme
from laminogram.studies.corpus import rows_of
from laminogram.studies.operations import OPERATIONS

Rows = list[list[int]]
EDITS = ("zero", "mean", "clip", "scale")
"""The operations that a report makes by default."""


@dataclass(frozen=True)
class Settings:
    """What is asked.

    precisions: the first is the reference of the others; none for the precision as loaded. edits:
    names of `studies.operations.OPERATIONS`; none for no operations. definitions: names of
    `outliers.available()`; none for all. bos: texts with the begin-of-
    text token, without it, or None for both where the model has one. draws: random controls of each
    target, and `operated` documents for operations to read; replicates: of the bootstrap; seeds and
    new_tokens: of texts that precisions continue.
    """

    precisions: tuple[str, ...] = ()
    edits: tuple[str, ...] = EDITS
    definitions: tuple[str, ...] = ()
    bos: bool | None = None
    draws: int = 20
    operated: int = 8
    replicates: int = 64
    seeds: int = 3
    new_tokens: int = 24
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name in self.precisions:
            if name not in PRECISIONS:
                Scheme.parse(name)
        if len(set(self.precisions)) < len(self.precisions):
            raise ConfigError(f"a precision is asked for twice: {', '.join(self.precisions)}")
        for name in self.definitions:
            find(name)
        unknown = [name for name in self.edits if name not in OPERATIONS]
        if unknown:
            raise ConfigError(
                f"there is no operation {unknown[0]!r}; there are {', '.join(OPERATIONS)}"
            )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The definitions that are taken."""
        return self.definitions or available()

    def facts(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def inputs_of(
    view: Subject, texts: Sequence[str] | Rows | Mapping[str, Rows], bos: bool | None
) -> dict[str, Rows]:
    """The inputs by name: `bos` and `no bos` where a model has that token, else `text`.

    Token ids, or a mapping from names to such, are read as they are. ConfigError where a begin-of-
    text token is asked for that does not exist.
    """
    if isinstance(texts, Mapping):
        return {name: [list(row) for row in rows] for name, rows in texts.items()}
    listed = list(texts)
    if not listed:
        raise ConfigError("there is no document to read")
    if not isinstance(listed[0], str):
        return {"ids": [list(row) for row in listed]}  # type: ignore[arg-type]
    given = [str(one) for one in listed]
    plain = {"no bos": rows_of(view, given, False)}
    if bos is False:
        return plain
    try:
        marked = {"bos": rows_of(view, given, True)}
    except CheckpointError:
        if bos:
            raise ConfigError(f"{view.name} names no begin-of-text token") from None
        return {"text": plain["no bos"]}
    return marked if bos else marked | plain


class Views(dict[str, Subject]):
    """The views of a model by precision, each made once; a format without a dtype keeps that of
    the first precision."""

    def __init__(self, view: Subject, precisions: Sequence[str]) -> None:
        super().__init__()
        self._view = view
        self.names = tuple(precisions) or (view.precision,)
        self._given = bool(precisions)

    @property
    def first(self) -> Subject:
        return self[self.names[0]]

    def __missing__(self, name: str) -> Subject:
        made = self._view if not self._given else self._made(name)
        self[name] = made
        return made

    def _made(self, name: str) -> Subject:
        quantised_first = self.names[0] not in PRECISIONS
        base = self._view if name == self.names[0] or quantised_first else self.first
        if name in PRECISIONS:
            base = self._view
        return base.using(precision=name)
