"""What is run: every variant of the paper at every place, as points of its figures.

A point of the shuffled variant has a plan for each seed; its numbers are means over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from laminogram.errors import ConfigError
from laminogram.plans import Plan, builders

FULL = "full"
BY_LAYER = ("skip_one", "swap")
BY_MIDDLE = ("skip", "middle_repeat", "parallel", "reverse", "random", "looped")
ITERATIONS = "iterations"
VARIANTS = (*BY_LAYER, *BY_MIDDLE, ITERATIONS)
SEEDS = 10
REPEATS = 8
"""The looped middle runs 1 to so many times in the heat map (the paper: 28, of 32 layers)."""


@dataclass(frozen=True)
class Point:
    """One condition: a variant at a place, with the plans whose numbers are averaged.

    layer: which one is left out, or swapped with the next; affected: how many layers the middle
    has, M; repeats: how often a looped middle runs. None where it says nothing.
    """

    variant: str
    plans: tuple[Plan, ...]
    layer: int | None = None
    affected: int | None = None
    repeats: int | None = None

    @property
    def layer_calls(self) -> float:
        """How many layers run, the mean over its plans; half a layer counts 0.5."""
        return sum(plan.cost().layer_calls for plan in self.plans) / len(self.plans)

    def __str__(self) -> str:
        said = {"layer": self.layer, "affected": self.affected, "repeats": self.repeats}
        given = ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)
        return f"{self.variant} ({given})" if given else self.variant


def points(
    num_layers: int,
    variants: Iterable[str] | None = None,
    *,
    seeds: int = SEEDS,
    repeats: int = REPEATS,
) -> tuple[Point, ...]:
    """The full stack, then the points of the chosen variants, by default of all `VARIANTS`.

    ConfigError names the variants that exist, and refuses fewer than one seed or repeat; PlanError
    says that a stack has no middle.
    """
    chosen = VARIANTS if variants is None else tuple(one.replace("-", "_") for one in variants)
    unknown = [one for one in chosen if one not in VARIANTS]
    if unknown:
        raise ConfigError(f"no variant is named {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    if seeds < 1 or repeats < 1:
        raise ConfigError(f"seeds and repeats are at least 1, not {seeds} and {repeats}")
    made = [Point(FULL, (Plan.full(num_layers),))]
    for variant in dict.fromkeys(chosen):
        if variant in BY_LAYER:
            made += _by_layer(variant, num_layers)
        elif variant == ITERATIONS:
            made += _iterations(num_layers, repeats)
        else:
            made += _by_middle(variant, num_layers, seeds)
    return tuple(made)


def distinct(chosen: Sequence[Point]) -> tuple[Plan, ...]:
    """The different plans of the points, each once; the full stack is the first."""
    return tuple(dict.fromkeys(plan for point in chosen for plan in point.plans))


def _by_layer(variant: str, num_layers: int) -> list[Point]:
    settings = builders.get(variant).sweep
    assert settings is not None
    places = [one["layer"] for one in settings(num_layers, ())]
    return [
        Point(variant, (builders.build(variant, num_layers, layer=layer),), layer=layer)
        for layer in places
    ]


def _by_middle(variant: str, num_layers: int, seeds: int) -> list[Point]:
    made = []
    for affected in _middles(num_layers):
        plans = [
            builders.build(variant, num_layers, affected=affected, **more)
            for more in ([{"seed": seed} for seed in range(seeds)] if variant == "random" else [{}])
        ]
        made.append(Point(variant, tuple(plans), affected=affected))
    return made


def _iterations(num_layers: int, repeats: int) -> list[Point]:
    return [
        Point(ITERATIONS, (plan,), affected=affected, repeats=again)
        for affected in _middles(num_layers)
        for again in range(1, repeats + 1)
        for plan in [builders.build("looped", num_layers, affected=affected, repeats=again)]
    ]


def _middles(num_layers: int) -> range:
    """How many layers a middle can have, M, from few to many: every second number."""
    return range(1 if num_layers % 2 == 0 else 2, num_layers, 2)
