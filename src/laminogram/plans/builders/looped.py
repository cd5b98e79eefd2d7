"""The middle in parallel, several times."""

from __future__ import annotations

from collections.abc import Iterable

from laminogram.errors import PlanError
from laminogram.plans.builders._middle import MIDDLE_SETTINGS, PAINTERS, middle, sweep_starts
from laminogram.plans.plan import Plan

SUMMARY = "the middle in parallel, several times in sequence"
SOURCE = PAINTERS
SETTINGS = {**MIDDLE_SETTINGS, "repeats": "how often the parallel middle runs (the paper: 3)"}


def build(
    num_layers: int, start: int | None = None, affected: int | None = None, repeats: int = 3
) -> Plan:
    """`pre, R times mean(mid), post`: 2N + 1 + R M layer calls."""
    if repeats < 1:
        raise PlanError(f"the middle runs at least once, not {repeats} times")
    m = middle(num_layers, start, affected)
    return Plan([*m.pre, Plan.mean(m.mid) * repeats, *m.post])


def sweep(num_layers: int, seeds: Iterable[int]) -> list[dict[str, int]]:
    """Every start layer, with the paper's three repeats."""
    return [{**one, "repeats": 3} for one in sweep_starts(num_layers, seeds)]
