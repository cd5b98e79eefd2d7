"""The texts of the study as pieces that a model reads in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from laminogram.errors import ConfigError, TokenError
from laminogram.evaluate.encode import LONGEST
from laminogram.infer.text import UNKNOWN
from laminogram.probe.manifest import tokens_hash
from laminogram.probe.recording import documents
from laminogram.probe.subject import Subject

Texts = Sequence[str] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Pieces:
    """Token rows, and which unit of resampling each belongs to.

    units: how many there are; unit: `documents`, or `stretches` where there is one document alone.
    text_bytes: UTF-8 bytes of each unit's predicted text, None where texts were given as ids or
    tokens are not whole characters.
    """

    rows: tuple[tuple[int, ...], ...]
    owners: tuple[int, ...]
    units: int
    unit: str
    text_bytes: tuple[int, ...] | None

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the rows."""
        return tokens_hash(list(self.rows))

    @property
    def tokens(self) -> int:
        return sum(map(len, self.rows))


def cut(view: Subject, texts: Texts, bos: bool | None = None) -> Pieces:
    """The texts as pieces no longer than what the model was trained for, `LONGEST` without limit.

    bos: whether a text begins with BOS; None is the tokenizer's habit. A piece begins with the last
    token of the one before, so that every token but a text's first is predicted once. TokenError
    where no text has two tokens; ConfigError for an encoder's text that is too long, since its
    parts would lack their special tokens.
    """
    if isinstance(texts, str):
        texts = [texts]
    if bos is not None and isinstance(texts[0], str):
        encoded = [view.needed_tokenizer().encode(str(text), bos) for text in texts]
    else:
        encoded = documents(view, texts)
    longest = view.config.max_position_embeddings or LONGEST
    rows, owners = [], []
    for number, ids in enumerate(encoded):
        if len(ids) > longest and not view.config.causal:
            raise ConfigError(
                f"text {number} has {len(ids)} tokens; {view.name} reads {longest}: give shorter "
                "ones, a line of JSON each"
            )
        for begin in range(0, len(ids) - 1, max(1, longest - 1)):
            rows.append(tuple(ids[begin : begin + longest]))
            owners.append(number)
    if not rows:
        raise TokenError("no text has two tokens, and what is measured is a token after another")
    alone = len(encoded) == 1
    units: Sequence[Sequence[int]] = rows if alone else encoded
    sizes = [_bytes(view, ids) for ids in units] if isinstance(texts[0], str) else [None]
    return Pieces(
        tuple(rows),
        tuple(range(len(rows))) if alone else tuple(owners),
        len(units),
        "stretches" if alone else "documents",
        None if None in sizes else tuple(one for one in sizes if one is not None),
    )


def _bytes(view: Subject, ids: Sequence[int]) -> int | None:
    """UTF-8 bytes of the text after the first token."""
    tokenizer = view.needed_tokenizer()
    whole, first = (tokenizer.decode(part, skip_special=True) for part in (ids, ids[:1]))
    if UNKNOWN in whole or UNKNOWN in first:
        return None
    return len(whole.encode()) - len(first.encode())
