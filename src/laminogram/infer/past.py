"""What a generation leaves behind so that it can go on: a cache, and the tokens it stands for.

The last token drawn was never fed to the model: it is in `tokens` and not yet in the cache. Knowing
all tokens, a cache can be built anew where a rotary that depends on the length asks for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from torch import Tensor

from laminogram.errors import CacheError
from laminogram.probe.store import read_tensors, tensor_text, text_tensor, write_tensors
from laminogram.probe.subject import Subject
from laminogram.stack.cache import Cache, grows

_KIND = "laminogram-past"
_TOKENS = "tokens"


@dataclass
class Past:
    """Rows of text with their cache. Going on advances it in place: `fork` to go on twice.

    tokens: every token of each row; the first `cache.lengths[row]` of them are in the cache.
    prompts: how many of them were given, the others being generated (`phase` of edits asks).
    draws: which stream of random draws each row follows: its number when it began.
    uncaptured: why the last new tokens were made without a captured step; None where one served.
    """

    cache: Cache
    tokens: list[list[int]]
    prompts: list[int]
    draws: list[int] = field(default_factory=list)
    uncaptured: str | None = None

    def __post_init__(self) -> None:
        self.draws = self.draws or list(range(len(self.tokens)))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.tokens)

    @property
    def pending(self) -> list[list[int]]:
        """The tokens of each row that the model has not read yet."""
        return [row[seen:] for row, seen in zip(self.tokens, self.cache.lengths, strict=True)]

    def fork(self, copies: int = 1) -> Past:
        """An independent copy; with `copies` > 1 every row becomes that many neighbouring rows."""
        tokens = [list(row) for row in self.tokens for _ in range(copies)]
        prompts = [prompt for prompt in self.prompts for _ in range(copies)]
        # Copies of one row must not all draw alike: several begin new streams.
        draws = list(self.draws) if copies == 1 else []
        return Past(self.cache.fork(copies), tokens, prompts, draws)

    def row(self, index: int) -> Past:
        """An independent copy of one row."""
        if not -self.rows <= index < self.rows:
            raise CacheError(f"row {index} does not exist: the cache holds rows 0-{self.rows - 1}")
        index %= self.rows
        return Past(
            self.cache.row(index),
            [list(self.tokens[index])],
            [self.prompts[index]],
            [self.draws[index]],
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write it as one safetensors file, whole or not at all."""
        cache = self.cache
        width = max(cache.lengths)
        tensors = {
            name: x[:, :, :width] if grows(name) else x for name, x in cache.tensors().items()
        }
        facts = {
            "lengths": cache.lengths,
            "prompts": self.prompts,
            "draws": self.draws,
            "conditions": cache.conditions,
            "regime": cache.regime,
            "planned": cache.planned,
        }
        tensors[_TOKENS] = text_tensor(self.tokens)
        write_tensors(path, _KIND, tensors, {"past": json.dumps(facts)})


def load_past(view: Subject, path: str | PathLike[str]) -> Past:
    """Read what `Past.save` wrote, for a view of the same conditions.

    CacheError where it was filled by a model of another name or shape, another plan or other edits.
    """
    tensors, header = read_tensors(path, _KIND)
    facts = json.loads(header["past"])
    tokens = tensor_text(tensors.pop(_TOKENS))
    cache = view.new_cache(len(tokens), planned=facts["planned"])
    if facts["conditions"] != cache.conditions:
        raise CacheError(
            f"{path} was filled under [{facts['conditions']}] and cannot go on under "
            f"[{cache.conditions}]"
        )
    cache.load_tensors(tensors)
    cache.lengths = list(facts["lengths"])
    cache.regime = _tuples(facts["regime"])
    cache.prompts = list(facts["prompts"])
    return Past(cache, tokens, list(facts["prompts"]), list(facts["draws"]))


class Frozen:
    """Rows of a cache that have ended while others go on.

    Each forward covers every row, so what it writes for an ended one is put back afterwards. An
    ended row is fed its last token at its last place again: it never grows, so neither a limit of
    positions nor a rope regime is passed on its account.
    """

    def __init__(self, past: Past) -> None:
        self._past = past
        self.rows: set[int] = set()
        self._kept: dict[int, tuple[int, dict[str, Tensor]]] = {}

    def add(self, row: int) -> None:
        """Freeze a row as it stands."""
        cache = self._past.cache
        self.rows.add(row)
        length = cache.lengths[row]
        values = {name: _at(name, x, row, length) for name, x in cache.tensors().items()}
        self._kept[row] = length, {name: x.clone() for name, x in values.items()}

    def refresh(self) -> None:
        """Take the rows of a cache that was built anew."""
        for row in self.rows:
            self.add(row)

    def step_back(self) -> None:
        """Before a forward: make it write its last place again."""
        for row in self.rows:
            self._past.cache.lengths[row] -= 1

    def restore(self) -> None:
        """At the end: put everything back."""
        cache = self._past.cache
        tensors = cache.tensors()
        for row, (length, kept) in self._kept.items():
            cache.lengths[row] = length
            for name, values in kept.items():
                _at(name, tensors[name], row, length).copy_(values)


def _at(name: str, x: Tensor, row: int, length: int) -> Tensor:
    """What feeding a row's last token again writes: its last column, or its whole state."""
    return x[row, :, length - 1] if grows(name) else x[row]


def _tuples(value: Any) -> Any:
    """Lists of a JSON text as the tuples that they were."""
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
