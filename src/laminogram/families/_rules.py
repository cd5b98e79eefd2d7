"""How the tensors of a published checkpoint become a stack's, and back: reversible data.

A rule names tensors on both sides by templates (`{i}` stands for a layer, `{e}` for an expert) and
can produce any one tensor of either side from the few it comes from on the other, so that
converting streams. New rules subclass `Rule`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from laminogram.errors import CheckpointError
from laminogram.families._operations import Binding, Operation, read_through, write_through
from laminogram.stack.config import AttentionConfig, StackConfig

Fetch = Callable[[str], Tensor]


class Rule:
    """Base of the rules. `theirs` and `ours` are the templates of the tensors it connects."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]

    def read(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """Our tensor number `which`; `fetch` gives a tensor of theirs by its template."""
        raise TypeError(f"{type(self).__name__} has no read")

    def write(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """Their tensor number `which`; `fetch` gives a tensor of ours by its template."""
        raise TypeError(f"{type(self).__name__} has no write")


class Rename(Rule):
    """One tensor under another name, its form changed by `operations` in order."""

    def __init__(self, theirs: str, ours: str, *operations: Operation) -> None:
        self.theirs, self.ours, self.operations = (theirs,), (ours,), operations

    def read(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """Theirs through the operations."""
        return read_through(self.operations, fetch(self.theirs[0]), binding)

    def write(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """Ours through the operations' inverses."""
        return write_through(self.operations, fetch(self.ours[0]), binding)


class SplitHeads(Rule):
    """Fused rows, head by head, each head with all P parts: (H * P * D, ...) <-> P of (H * D, ...).

    The number of heads is the layer's `num_attention_heads`.
    """

    def __init__(self, theirs: str, *ours: str) -> None:
        self.theirs, self.ours = (theirs,), ours

    def read(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """The rows of one part, in the order of the heads."""
        tensor, heads, parts = fetch(self.theirs[0]), self._heads(binding), len(self.ours)
        if tensor.dim() == 0 or tensor.shape[0] % (heads * parts):
            return tensor  # the shape check names it
        grouped = tensor.reshape(heads, parts, -1, *tensor.shape[1:])
        return grouped[:, which].reshape(-1, *tensor.shape[1:])

    def write(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """All parts, interleaved head by head."""
        heads = self._heads(binding)
        parts = [fetch(name) for name in self.ours]
        grouped = [part.reshape(heads, -1, *part.shape[1:]) for part in parts]
        return torch.stack(grouped, dim=1).reshape(-1, *parts[0].shape[1:])

    @staticmethod
    def _heads(binding: Binding) -> int:
        return int(getattr(binding.layer.attn, "num_attention_heads", 1))


class SplitGroups(Rule):
    """Rows of keys' groups, each with its queries, its key and its value: (K * (G + 2) * D, ...)
    <-> q (K * G * D, ...), k and v (K * D, ...)."""

    def __init__(self, theirs: str, q: str, k: str, v: str) -> None:
        self.theirs, self.ours = (theirs,), (q, k, v)

    def read(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """The rows of one part, in the order of the groups."""
        tensor, (groups, queries) = fetch(self.theirs[0]), self._groups(binding)
        if tensor.dim() == 0 or tensor.shape[0] % (groups * (queries + 2)):
            return tensor  # the shape check names it
        grouped = tensor.reshape(groups, queries + 2, -1, *tensor.shape[1:])
        part = (slice(0, queries), slice(queries, queries + 1), slice(queries + 1, None))[which]
        return grouped[:, part].reshape(-1, *tensor.shape[1:])

    def write(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """Group by group: its queries, its key, its value."""
        groups, _ = self._groups(binding)
        parts = [fetch(name) for name in self.ours]
        rows = [part.reshape(groups, -1, *part.shape[1:]) for part in parts]
        return torch.cat(rows, dim=1).reshape(-1, *parts[0].shape[1:])

    @staticmethod
    def _groups(binding: Binding) -> tuple[int, int]:
        attention = binding.layer.attn
        assert isinstance(attention, AttentionConfig)
        keys = attention.num_key_value_heads
        return keys, attention.num_attention_heads // keys


class SplitRows(Rule):
    """Rows stacked part after part: (sum of rows, ...) <-> one tensor for each part.

    `rows` gives each part's number of rows for a layer. `whole` are operations on the fused tensor,
    before it is split; `each` those on single parts, by our template.
    """

    def __init__(
        self,
        theirs: str,
        *ours: str,
        rows: Callable[[Binding], tuple[int, ...]],
        whole: tuple[Operation, ...] = (),
        each: Mapping[str, tuple[Operation, ...]] | None = None,
    ) -> None:
        self.theirs, self.ours, self.rows = (theirs,), ours, rows
        self.whole, self.each = whole, dict(each or {})

    def read(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """The rows of one part, as a view where no operation makes another tensor of them."""
        tensor = read_through(self.whole, fetch(self.theirs[0]), binding)
        sizes = self.rows(binding)
        if tensor.dim() == 0 or tensor.shape[0] != sum(sizes):
            return tensor  # the shape check names it
        part = tensor[sum(sizes[:which]) : sum(sizes[: which + 1])]
        return read_through(self.each.get(self.ours[which], ()), part, binding)

    def write(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """The parts, one below the other."""
        parts = [write_through(self.each.get(name, ()), fetch(name), binding) for name in self.ours]
        return write_through(self.whole, torch.cat(parts), binding)


def query_key_value(binding: Binding) -> tuple[int, int, int]:
    """How many rows q, k and v of a layer's attention have."""
    attention = binding.layer.attn
    assert isinstance(attention, AttentionConfig)
    keys = attention.num_key_value_heads * attention.head_dim
    return attention.num_attention_heads * attention.head_dim, keys, keys


def halves(binding: Binding) -> tuple[int, int]:
    """How many rows gate and up of a layer's feed-forward have."""
    size = int(getattr(binding.layer.ffn, "intermediate_size", 0))
    return size, size


@lru_cache(maxsize=4096)
def pattern(template: str) -> re.Pattern[str]:
    """A template as an expression: each `{name}` matches a number without leading zeros."""
    parts = re.split(r"\{(\w+)\}", template)
    text = "".join(
        re.escape(part) if place % 2 == 0 else f"(?P<{part}>0|[1-9][0-9]*)"
        for place, part in enumerate(parts)
    )
    return re.compile(text)


def match(template: str, name: str) -> dict[str, int] | None:
    """The numbers that make `template` equal to `name`, or None."""
    found = pattern(template).fullmatch(name)
    return None if found is None else {key: int(value) for key, value in found.groupdict().items()}


@dataclass(frozen=True)
class Bound:
    """A rule at one place: the tensor number `which` of a side, in the layer of `binding`."""

    rule: Rule
    which: int
    binding: Binding

    @property
    def their_names(self) -> tuple[str, ...]:
        """The checkpoint's tensors of this rule at this place."""
        return tuple(name.format(**self.binding.index) for name in self.rule.theirs)

    @property
    def our_names(self) -> tuple[str, ...]:
        """The stack's tensors of this rule at this place."""
        return tuple(name.format(**self.binding.index) for name in self.rule.ours)

    def read(self, fetch: Fetch) -> Tensor:
        """Our tensor, `fetch` giving theirs by full name."""
        index = self.binding.index
        return self.rule.read(self.which, lambda name: fetch(name.format(**index)), self.binding)

    def write(self, fetch: Fetch) -> Tensor:
        """Their tensor, `fetch` giving ours by full name."""
        index = self.binding.index
        return self.rule.write(self.which, lambda name: fetch(name.format(**index)), self.binding)


class TensorMap:
    """A layout's rules for one model: which rule makes which tensor."""

    def __init__(
        self, rules: tuple[Rule, ...], config: StackConfig, options: Mapping[str, Any]
    ) -> None:
        self.rules, self.config, self.options = rules, config, options

    def ours(self, name: str) -> Bound | None:
        """What makes our tensor `name`, or None where the layout has no place for it."""
        return self._find(name, [rule.ours for rule in self.rules])

    def theirs(self, name: str) -> Bound | None:
        """What makes their tensor `name`, or None where no rule speaks of it."""
        return self._find(name, [rule.theirs for rule in self.rules])

    def names_of_theirs(self, our_names: list[str]) -> list[str]:
        """The checkpoint's tensors that hold ours, each once, in our order."""
        found: dict[str, None] = {}
        for name in our_names:
            bound = self.ours(name)
            if bound is None:
                raise CheckpointError(f"the layout has no place for the stack's tensor {name!r}")
            found.update(dict.fromkeys(bound.their_names))
        return list(found)

    def _find(self, name: str, sides: list[tuple[str, ...]]) -> Bound | None:
        for rule, side in zip(self.rules, sides, strict=True):
            for which, template in enumerate(side):
                index = match(template, name)
                if index is not None and index.get("i", 0) < len(self.config.layers):
                    return Bound(rule, which, Binding(self.config, index, self.options))
        return None
