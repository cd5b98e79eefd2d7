"""Which step of one model stands beside which of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from laminogram.probe.program import steps_of
from laminogram.probe.subject import Subject
from laminogram.stack.sites import STACK_STEP
from laminogram.studies.reading import step_labels

Rule = Literal["layers", "depth"]


@dataclass(frozen=True)
class Match:
    """A site at a step of the reference and of the other; depth: of the former, 0 to 1."""

    site: str
    step: int
    step_other: int
    layer: int
    layer_other: int
    depth: float
    label: str


def rule_of(reference: Subject, other: Subject) -> Rule:
    """`layers` for models of equally many layers, else `depth`."""
    same = reference.config.num_layers == other.config.num_layers
    return "layers" if same else "depth"


def matches(reference: Subject, other: Subject, site: str) -> list[Match]:
    """Every step of the reference that has the site, beside one of the other.

    By `layers`: the same layer, and where a plan runs one several times the same of these times;
    what either plan leaves out has no match. By `depth`: the step whose relative depth, (number +
    1/2) / count among the plan's steps with the site, is nearest; of two the earlier. SiteError
    where a model has no such site.
    """
    mine, theirs = (steps_of(site, one.config, one.plan) for one in (reference, other))
    if STACK_STEP in mine:
        return [Match(site, STACK_STEP, STACK_STEP, -1, -1, 1.0, site)]
    if rule_of(reference, other) == "layers":
        pairs = _by_layer(_occurrences(reference, mine), _occurrences(other, theirs))
    else:
        pairs = [(step, theirs[n]) for step, n in zip(mine, nearest(len(mine), len(theirs)))]
    labels = dict(zip(mine, step_labels(reference.plan, mine), strict=True))
    return [
        Match(
            site,
            a,
            b,
            reference.plan.steps[a].layer,
            other.plan.steps[b].layer,
            (mine.index(a) + 0.5) / len(mine),
            labels[a],
        )
        for a, b in pairs
    ]


def nearest(count: int, other: int) -> list[int]:
    """For each of `count` places the number of the nearest of `other` in relative depth."""
    found = []
    for place in range(count):
        # Whole numbers, so that ties are ties: distances times 2 * count * other.
        away = [abs((2 * place + 1) * other - (2 * n + 1) * count) for n in range(other)]
        found.append(away.index(min(away)))
    return found


def _occurrences(view: Subject, steps: Sequence[int]) -> dict[tuple[int, int], int]:
    """(layer, how many times it ran before) -> step."""
    seen: Counter[int] = Counter()
    found = {}
    for step in steps:
        layer = view.plan.steps[step].layer
        found[layer, seen[layer]] = step
        seen[layer] += 1
    return found


def _by_layer(
    mine: dict[tuple[int, int], int], theirs: dict[tuple[int, int], int]
) -> list[tuple[int, int]]:
    return [(step, theirs[key]) for key, step in mine.items() if key in theirs]
