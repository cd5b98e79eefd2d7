"""Rows of tokens packed into full batches: equal inputs read once, common beginnings read once.

The rows of one document often begin alike (the choices of a question). Such a document becomes one
tree of tokens (`evaluate.token_tree`), or, for a model that remembers a state, a trunk and branches
of what follows; everything else is read whole. Packs hold rows of like length, longest first, up to
a budget of tokens, pads counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate, pairwise
from typing import Literal

from laminogram.evaluate.encode import Row
from laminogram.evaluate.token_tree import Inputs, TokenTree

Sharing = Literal["trees", "trunks", "nothing"]
"""How the rows of a document may share what they have in common."""

WORTH = 4
"""Tokens that sharing must save a document, or its rows are read whole."""

_ATTENDED = 512
"""Attention to so many columns is taken to cost what a token's products with the weights cost."""
_LIKE = 16
"""Trunks whose lengths differ by less are taken as equally long."""
_FILLED, _SMALL = 1.25, 256
"""A pack of more than so many tokens is at most so many times what is real in it."""


@dataclass(frozen=True)
class Pack:
    """Inputs that run in one batch.

    inputs: different token rows; asked: the rows that each of them answers. trunks: for `copies`
    neighbouring inputs at a time how many tokens they have in common, which are read once; empty
    where every input is read whole. trees: how many neighbouring inputs at a time are one row, a
    tree of tokens; empty where none is.
    """

    inputs: tuple[Inputs, ...]
    asked: tuple[tuple[Row, ...], ...]
    trunks: tuple[int, ...] = ()
    copies: int = 1
    trees: tuple[int, ...] = ()

    @cached_property
    def grown(self) -> tuple[TokenTree, ...]:
        """The trees of tokens."""
        ends = list(accumulate(self.trees, initial=0))
        return tuple(TokenTree.of(self.inputs[a:b]) for a, b in pairwise(ends))

    @property
    def rows(self) -> list[Row]:
        """Every row that the pack answers, in the order of its answers."""
        return [row for rows in self.asked for row in rows]

    @cached_property
    def hash(self) -> str:
        """BLAKE2b, 16 hex digits, of tokens and what is asked of them: the name of its answers."""
        facts = [[row.scored, *row.tokens] for row in self.rows]
        return blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()

    @property
    def tokens(self) -> int:
        """Tokens that are read, pads not counted."""
        whole = sum(map(len, self.grown or self.inputs))
        return whole - (self.copies - 1) * sum(self.trunks)


@dataclass(frozen=True)
class _Family:
    """Inputs of one document that are read together: alone, or with their first `trunk` tokens in
    common, or as a tree of so many columns."""

    inputs: tuple[Inputs, ...]
    trunk: int = 0
    columns: int = 0

    @property
    def tail(self) -> int:
        return max(map(len, self.inputs)) - self.trunk

    @property
    def kind(self) -> tuple[bool, int]:
        """What families in one pack have in common: trees, or as many branches."""
        return (True, 0) if self.columns else (False, len(self.inputs))

    @property
    def order(self) -> tuple[tuple[bool, int], int, int, tuple[Inputs, ...]]:
        """Families of a kind together, then of like trunks, then the longest first."""
        longest = self.columns or self.tail
        return self.kind, -(self.trunk // _LIKE), -longest, self.inputs

    @property
    def tokens(self) -> int:
        """Tokens that are read."""
        return self.columns or sum(map(len, self.inputs)) - self.trunk * (len(self.inputs) - 1)


def pack(
    documents: Iterable[Sequence[Row]], budget: int, *, share: Sharing = "trunks"
) -> list[Pack]:
    """Every different row of the documents in packs of at most `budget` tokens (a row alone may be
    longer); the same rows give the same packs."""
    asked: dict[Inputs, dict[Row, None]] = {}
    found: list[dict[Inputs, None]] = []  # by document, what none before it has
    for rows in documents:
        found.append({row.inputs: None for row in rows if row.inputs not in asked})
        for row in rows:
            asked.setdefault(row.inputs, {})[row] = None
    families = [family for fresh in found for family in _families(tuple(fresh), asked, share)]
    packs: list[Pack] = []
    waiting: list[_Family] = []
    for family in sorted(families, key=lambda one: one.order):
        if waiting and not _fits([*waiting, family], budget):
            packs.append(_closed(waiting, asked))
            waiting = []
        waiting.append(family)
    return [*packs, _closed(waiting, asked)] if waiting else packs


def _families(
    inputs: tuple[Inputs, ...], asked: Mapping[Inputs, Iterable[Row]], share: Sharing
) -> list[_Family]:
    """One document's inputs, with what they have in common."""
    apart = [_Family((one,)) for one in inputs]
    if share == "nothing" or len(inputs) < 2:
        return apart
    if share == "trees":
        columns = len(TokenTree.of(inputs))
        alone = sum(len(one) * (_ATTENDED + len(one)) for one in inputs)
        return (
            [_Family(inputs, columns=columns)] if columns * (_ATTENDED + columns) < alone else apart
        )
    given = min(row.given for one in inputs for row in asked[one])
    trunk = min(_common(inputs), given)
    return [_Family(inputs, trunk)] if trunk * (len(inputs) - 1) >= WORTH else apart


def _common(inputs: Sequence[Inputs]) -> int:
    """How many tokens all inputs begin with: what the first and last in order have in common."""
    low, high = min(inputs), max(inputs)
    for place, (a, b) in enumerate(zip(low, high)):
        if a != b:
            return place
    return min(len(low), len(high))


def _fits(families: Sequence[_Family], budget: int) -> bool:
    if families[-1].kind != families[0].kind:
        return False
    branches = len(families[0].inputs)
    trunk, tail, columns = (
        max(getattr(one, name) for one in families) for name in ("trunk", "tail", "columns")
    )
    padded = len(families) * (columns or trunk + branches * tail)
    real = sum(family.tokens for family in families)
    return padded <= budget and padded <= max(_SMALL, _FILLED * real)


def _closed(families: Sequence[_Family], asked: dict[Inputs, dict[Row, None]]) -> Pack:
    inputs = tuple(one for family in families for one in family.inputs)
    answered = tuple(tuple(asked[one]) for one in inputs)
    if families[0].columns:
        return Pack(inputs, answered, trees=tuple(len(family.inputs) for family in families))
    copies = len(families[0].inputs)
    trunks = tuple(family.trunk for family in families) if copies > 1 else ()
    return Pack(inputs, answered, trunks, copies)
