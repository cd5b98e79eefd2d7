"""How the tensors of a published checkpoint become a stack's, and back: reversible data.

A rule names tensors on both sides by templates (`{i}` stands for a layer) and can produce any one
tensor of either side from the few it comes from on the other, so that converting streams. An
operation changes the form of a single tensor. New rules subclass `Rule`; new operations have
`forward` (theirs to ours) and `inverse`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from laminogram.errors import CheckpointError
from laminogram.stack.config import LayerConfig, StackConfig

Fetch = Callable[[str], Tensor]


@dataclass(frozen=True)
class Binding:
    """What a rule may look at besides its tensors: the model, its layer, the options."""

    config: StackConfig
    index: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layer(self) -> LayerConfig:
        """The configuration of the layer that `{i}` stands for."""
        return self.config.layers[self.index["i"]]


class Operation(Protocol):
    """A reversible change of one tensor's form."""

    def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
        """From the checkpoint's form to ours."""
        ...

    def inverse(self, tensor: Tensor, binding: Binding) -> Tensor:
        """From our form to the checkpoint's."""
        ...


@dataclass(frozen=True)
class Transpose:
    """(a, b) <-> (b, a)."""

    def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
        """The transposed view."""
        return tensor.t() if tensor.dim() == 2 else tensor

    inverse = forward


@dataclass(frozen=True)
class Squeeze:
    """(1, ..., 1, C) <-> (C,). `leading` axes of size one are written; any number is read."""

    leading: int = 2

    def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
        """Without its axes of size one; a tensor with another axis is left for the shape check."""
        return tensor.reshape(-1) if tensor.numel() == tensor.shape[-1:].numel() else tensor

    def inverse(self, tensor: Tensor, binding: Binding) -> Tensor:
        """With `leading` axes of size one before it."""
        return tensor.reshape(*[1] * self.leading, *tensor.shape)


@dataclass(frozen=True)
class Halved:
    """Weights of layer i that were stored divided by 2 ** (i // every) against fp16 overflow.

    `every` is the value of the named option; absent or 0, nothing was divided.
    """

    option: str

    def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
        """The true weights; exact but for what the division lost to fp16 subnormals."""
        power = self._power(binding)
        return tensor if power == 0 or tensor.is_meta else tensor * 2.0**power

    def inverse(self, tensor: Tensor, binding: Binding) -> Tensor:
        """The divided weights."""
        power = self._power(binding)
        return tensor if power == 0 or tensor.is_meta else tensor / 2.0**power

    def _power(self, binding: Binding) -> int:
        every = int(binding.options.get(self.option) or 0)
        return binding.index["i"] // every if every > 0 else 0


@dataclass(frozen=True)
class NegativeExponential:
    """Theirs is -exp(ours), in fp32: a decay that was stored ready for use."""

    def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
        """log(-theirs)."""
        return tensor if tensor.is_meta else (-tensor.float()).log()

    def inverse(self, tensor: Tensor, binding: Binding) -> Tensor:
        """-exp(ours)."""
        return tensor if tensor.is_meta else -tensor.float().exp()


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
        tensor = fetch(self.theirs[0])
        for operation in self.operations:
            tensor = operation.forward(tensor, binding)
        return tensor

    def write(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """Ours through the operations' inverses."""
        tensor = fetch(self.ours[0])
        for operation in reversed(self.operations):
            tensor = operation.inverse(tensor, binding)
        return tensor


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


class SplitRows(Rule):
    """Rows stacked part after part: (sum of rows, ...) <-> one tensor for each part.

    `rows` gives each part's number of rows for a layer.
    """

    def __init__(self, theirs: str, *ours: str, rows: Callable[[Binding], tuple[int, ...]]) -> None:
        self.theirs, self.ours, self.rows = (theirs,), ours, rows

    def read(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """The rows of one part, as a view."""
        tensor, sizes = fetch(self.theirs[0]), self.rows(binding)
        if tensor.dim() == 0 or tensor.shape[0] != sum(sizes):
            return tensor  # the shape check names it
        return tensor[sum(sizes[:which]) : sum(sizes[: which + 1])]

    def write(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """The parts, one below the other."""
        return torch.cat([fetch(name) for name in self.ours])


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
