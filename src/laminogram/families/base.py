"""What a family is: one published architecture, told as data.

A file of this folder holds one: how its configuration reads (`configure`), and how its tensors are
named and laid out (`layouts`), in one or several published forms. Everything else is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from laminogram.errors import CheckpointError, ConfigError
from laminogram.families import _score
from laminogram.families._fields import Fields, heads
from laminogram.families._operations import (
    Binding,
    Deinterleave,
    Halved,
    NegativeExponential,
    Squeeze,
    Transpose,
)
from laminogram.families._rope import read_rope
from laminogram.families._rules import (
    Bound,
    Rename,
    Rule,
    SplitGroups,
    SplitHeads,
    SplitRows,
    TensorMap,
    halves,
    match,
    query_key_value,
)
from laminogram.families._target import GROUPED, KINDS, PTH, SIZES, TURNED, Target
from laminogram.families._text import TextHabits, TiktokenHabits
from laminogram.stack.config import StackConfig

__all__ = [
    "GROUPED",
    "KINDS",
    "PTH",
    "SIZES",
    "TURNED",
    "Binding",
    "Bound",
    "Deinterleave",
    "Family",
    "Fields",
    "Halved",
    "Layout",
    "NegativeExponential",
    "Rename",
    "Rule",
    "Shapes",
    "SplitGroups",
    "SplitHeads",
    "SplitRows",
    "Squeeze",
    "Target",
    "TensorMap",
    "TextHabits",
    "TiktokenHabits",
    "Transpose",
    "halves",
    "heads",
    "match",
    "named",
    "query_key_value",
    "read_rope",
]

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """One published form of a family's tensors.

    `marks` are templates that must each match a key for the layout to be recognised, `ignore` shell
    patterns of tensors without meaning (buffers), in which `{layers}` is the number of layers,
    `duplicates` pairs (copy, original): a copy that no tensor of the stack needs is accepted where
    it equals its original. `aliases` are endings (old, new) of keys. `options` are the names that
    its operations read from the checkpoint or the caller. `target` says how another model is told
    in this form; a layout without one is only written as what it was read from.
    """

    name: str
    rules: tuple[Rule, ...]
    marks: tuple[str, ...]
    ignore: tuple[str, ...] = ()
    duplicates: tuple[tuple[str, str], ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()
    target: Target | None = None

    def canonical(self, key: str) -> str:
        """A checkpoint's key with an old ending replaced."""
        for old, new in self.aliases:
            if key.endswith(old):
                return key.removesuffix(old) + new
        return key

    def recognises(self, keys: Iterable[str]) -> bool:
        """True where every mark is among the keys."""
        names = [self.canonical(key) for key in keys]
        return all(any(match(mark, name) is not None for name in names) for mark in self.marks)

    def bind(self, config: StackConfig, options: Mapping[str, Any] | None = None) -> TensorMap:
        """The mapping for one model. ConfigError where an option is not the layout's."""
        given = dict(options or {})
        unknown = sorted(set(given) - set(self.options))
        if unknown:
            known = ", ".join(self.options) or "none"
            raise ConfigError(
                f"layout {self.name!r} has no option {', '.join(unknown)}; it has: {known}"
            )
        rules = self.rules if config.score is None else (*self.rules, *_score.RULES)
        return TensorMap(rules, config, given)


@dataclass(frozen=True)
class Family:
    """One published architecture.

    `model_types` are the values of config.json's `model_type` that it answers to, `architectures`
    the class names for files without one. `configure` reads a configuration; it gets the
    checkpoint's shapes, where they are known, for what only they tell. `recognise` makes a
    configuration from the shapes alone, for files that come without one, or answers None.

    `names` and `defaults` are those of `Fields`: what the family calls a field, and what an absent
    one means. `text` is how its texts are read where a checkpoint's files do not say.
    """

    name: str
    summary: str
    model_types: tuple[str, ...]
    configure: Callable[[Fields, Shapes | None], StackConfig]
    layouts: tuple[Layout, ...]
    architectures: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()
    recognise: Callable[[Shapes], dict[str, Any] | None] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    text: TextHabits = field(default_factory=TextHabits)

    def config(self, source: Mapping[str, Any], shapes: Shapes | None = None) -> StackConfig:
        """The stack that `source` (config.json's contents) describes.

        ConfigError names a field that is missing, has an unusable value, or is not understood.
        """
        fields = Fields(source, self.name, names=self.names, defaults=self.defaults)
        config = _score.with_score(self.configure(fields, shapes), fields, shapes)
        fields.finish(self.harmless)
        return replace(config, source=dict(source))

    def express(self, layout: Layout, config: StackConfig) -> dict[str, Any]:
        """What config.json says where `config` is written in this layout, as far as it can.

        ConfigError where the layout is no target, or the stack has no such parts at all.
        """
        if layout.target is None:
            raise ConfigError("its published form is only read here, not written")
        return layout.target.source(config, self.model_types[0], self.names)

    def layout(self, keys: Iterable[str]) -> Layout:
        """The first layout whose marks are among the keys; CheckpointError where there is none."""
        names = list(keys)
        for layout in self.layouts:
            if layout.recognises(names):
                return layout
        known = "; ".join(f"{form.name} has {', '.join(form.marks)}" for form in self.layouts)
        listed = ", ".join(sorted(names)[:4]) or "none"
        raise CheckpointError(
            f"the {len(names)} tensors ({listed}, ...) are in no layout that family {self.name} "
            f"knows: {known}"
        )

    def layout_named(self, name: str) -> Layout:
        """The layout of that name; ConfigError names those that exist."""
        for layout in self.layouts:
            if layout.name == name:
                return layout
        known = ", ".join(layout.name for layout in self.layouts)
        raise ConfigError(f"family {self.name} has no layout {name!r}; it has: {known}")


def named(theirs: str, ours: str, *parts: str) -> tuple[Rename, ...]:
    """One `Rename` for each part ("weight" and "bias" unless named) of two modules."""
    return tuple(
        Rename(f"{theirs}.{part}", f"{ours}.{part}") for part in parts or ("weight", "bias")
    )
