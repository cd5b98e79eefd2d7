"""Plans by name: one builder is one file here, found by its name.

    from laminogram.plans import builders
    builders.build("reverse", 32, start=7)      # 0-7, 24-8, 25-31
    builders.variants(32)                       # every variant of the paper for every start layer

A builder's file holds `build(num_layers, ...) -> Plan`, a line that says what it does (`SUMMARY`),
where it comes from (`SOURCE`) and what its settings mean (`SETTINGS`). One whose settings the paper
sweeps says which: `sweep(num_layers, seeds)` gives them in order.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from laminogram.errors import PlanError
from laminogram.plans.builders._middle import middle
from laminogram.plans.plan import Plan

__all__ = ["Builder", "Variant", "build", "get", "names", "takes_text", "variants"]

SEEDS = tuple(range(10))
"""The seeds of the shuffled variants: ten, as in the paper, which does not say which."""


@dataclass(frozen=True)
class Builder:
    """One builder: its function, what it does, where it comes from, what its settings mean."""

    name: str
    build: Callable[..., Plan]
    summary: str
    source: str
    settings: Mapping[str, str]
    sweep: Callable[[int, Iterable[int]], Iterable[dict[str, int]]] | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """The settings that have no default."""
        known = inspect.signature(self.build).parameters
        return tuple(
            name for name in self.settings if known[name].default is inspect.Parameter.empty
        )


@dataclass(frozen=True)
class Variant:
    """A plan with the builder and the settings that made it."""

    name: str
    plan: Plan
    settings: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        said = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.name}({said})" if said else self.name


@lru_cache(maxsize=1)
def _known() -> dict[str, Builder]:
    found = [
        module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")
    ]
    return {name: _read(name) for name in sorted(found)}


def _read(name: str) -> Builder:
    module = importlib.import_module(f"{__name__}.{name}")
    sweep = getattr(module, "sweep", None)
    return Builder(name, module.build, module.SUMMARY, module.SOURCE, module.SETTINGS, sweep)


def names() -> tuple[str, ...]:
    """The names of all builders, sorted."""
    return tuple(_known())


def get(name: str) -> Builder:
    """The builder of that name, `-` for `_` if one likes; PlanError names those that exist."""
    name = name.replace("-", "_")
    if name not in _known():
        raise PlanError(f"no plan builder is named {name!r}; there are {', '.join(names())}")
    return _known()[name]


def takes_text(setting: str) -> bool:
    """Whether a setting is a list, which the command line gives as text, and not a whole number."""
    users = (one for one in _known().values() if setting in one.settings)
    return any("str" in str(inspect.signature(one.build).parameters[setting]) for one in users)


def build(name: str, num_layers: int, **settings: Any) -> Plan:
    """The plan of a builder for a stack of `num_layers` layers.

    PlanError says which builders, settings or values exist where one given does not.
    """
    builder = get(name)
    if num_layers < 1:
        raise PlanError(f"a stack has at least one layer, not {num_layers}")
    strange = [key for key in settings if key not in builder.settings]
    if strange:
        known = ", ".join(builder.settings) or "none"
        raise PlanError(f"{name} has no setting {strange[0]!r}; it has {known}")
    missing = [key for key in builder.required if key not in settings]
    if missing:
        raise PlanError(f"{name} needs {missing[0]}: {builder.settings[missing[0]]}")
    return builder.build(num_layers, **settings)


def variants(
    num_layers: int,
    start: int | None = None,
    affected: int | None = None,
    seeds: Iterable[int] = SEEDS,
) -> tuple[Variant, ...]:
    """Every variant of "Transformer Layers as Painters" for a stack, for every start layer.

    With `start` or `affected`, only those with that middle, and the full stack to compare with.
    Variants whose plans are equal (with one affected layer many are) stay apart by name.
    """
    chosen = None
    if start is not None or affected is not None:
        chosen = middle(num_layers, start, affected).start
    made = []
    for builder in _known().values():
        for settings in builder.sweep(num_layers, tuple(seeds)) if builder.sweep else ():
            if chosen is None or not settings or settings.get("start") == chosen:
                plan = builder.build(num_layers, **settings)
                made.append(Variant(builder.name, plan, settings))
    return tuple(made)
