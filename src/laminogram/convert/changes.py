"""What may be done to a canonical model so that another family can say it: reversible mathematics
on configuration and tensors, as data.

A change holds the configuration afterwards and makes the tensors it touches from those before it.
How good it is stands beside it:

    same bytes      numbers move (renamed, split, joined, permuted, repeated, zeros added) or stay
    exact in fp32   numbers are computed anew, equal in exact arithmetic, rounded once to the dtype
    lossy           the result is another function; what is lost is said
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from laminogram.families.base import match
from laminogram.stack.config import LayerConfig, StackConfig

Fetch = Callable[[str], Tensor]
Maker = Callable[[str, Fetch], Tensor]


class Grade(IntEnum):
    """How equal the result of a conversion is; a chain is as good as its worst part."""

    SAME_BYTES = 0
    EXACT = 1
    LOSSY = 2

    def __str__(self) -> str:
        return ("same bytes", "exact in fp32", "lossy")[self]


@dataclass(frozen=True)
class Change:
    """One step between two canonical models.

    what: what is done, for people. config: the model afterwards. makes: the tensors it touches, by
    templates of our names (`layers.{i}.attn.q.weight`); each is made from tensors before the
    change. limit: the texts, in tokens, up to which the grade holds; None for all. tidy: whether it
    leaves something out that plays no part, and so is worth trying whatever else is to change.
    moves: whether the tensors' numbers stay what they are, whatever the grade.
    """

    what: str
    grade: Grade
    config: StackConfig
    makes: Mapping[str, Maker] = field(default_factory=dict)
    limit: int | None = None
    tidy: bool = False
    moves: bool = False

    def maker(self, name: str) -> Maker | None:
        """What makes our tensor `name`; None where the change leaves it as it is."""
        return next((make for at, make in self.makes.items() if match(at, name) is not None), None)


def grade(changes: Iterable[Change]) -> Grade:
    """The grade of a chain of changes."""
    return max((change.grade for change in changes), default=Grade.SAME_BYTES)


def computes(changes: Iterable[Change]) -> bool:
    """Whether a chain computes numbers anew, which are rounded where their dtype is narrow."""
    return any(change.grade is Grade.EXACT and not change.moves for change in changes)


def in_words(found: Grade, *, rounded: Iterable[torch.dtype], asked: torch.dtype | None) -> str:
    """A grade that holds for the dtype written: "exact in fp32, rounded to bfloat16".

    rounded: the dtypes that numbers were rounded to, none where none were. asked: the dtype that
    all numbers were brought to, None where each kept its own.
    """
    text = str(found)
    if asked is not None and found is Grade.SAME_BYTES:
        text = "same numbers"  # in other bytes
    narrow = [_named(dtype) for dtype in rounded]
    if narrow:
        return f"{text}, rounded to {' and '.join(sorted(narrow))}"
    return text if asked is None else f"{text}, in {_named(asked)}"


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def limit(changes: Iterable[Change]) -> int | None:
    """The texts, in tokens, up to which a chain holds; None for all."""
    return min((change.limit for change in changes if change.limit), default=None)


def through(changes: tuple[Change, ...], name: str, fetch: Fetch) -> Tensor:
    """Our tensor `name` after all changes; `fetch` gives those before the first."""
    if not changes:
        return fetch(name)
    *before, last = changes
    make = last.maker(name)

    def earlier(wanted: str) -> Tensor:
        return through(tuple(before), wanted, fetch)

    return earlier(name) if make is None else make(name, earlier)


def touching(changes: tuple[Change, ...], name: str) -> list[Change]:
    """The changes that make our tensor `name` anew."""
    return [change for change in changes if change.maker(name) is not None]


def in_layers(config: StackConfig, part: str, **fields: Any) -> StackConfig:
    """The model with other fields in every layer's `attn`, `ffn` or `norm`."""
    return each_layer(
        config, lambda layer: replace(layer, **{part: replace(getattr(layer, part), **fields)})
    )


def each_layer(config: StackConfig, change: Callable[[LayerConfig], LayerConfig]) -> StackConfig:
    """The model with every layer changed; layers that are one object stay one."""
    made: dict[int, LayerConfig] = {}
    for layer in config.layers:
        if id(layer) not in made:
            made[id(layer)] = change(layer)
    return replace(config, layers=tuple(made[id(layer)] for layer in config.layers))
