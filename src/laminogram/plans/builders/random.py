"""The middle in random order."""

from __future__ import annotations

import random
from collections.abc import Iterable

from laminogram.plans.builders._middle import MIDDLE_SETTINGS, PAINTERS, middle, sweep_starts
from laminogram.plans.plan import Plan

SUMMARY = "the middle in an order drawn by a seed"
SOURCE = PAINTERS
SETTINGS = {**MIDDLE_SETTINGS, "seed": "what Python's random.seed is given"}


def build(
    num_layers: int, start: int | None = None, affected: int | None = None, seed: int = 0
) -> Plan:
    """`pre, mid shuffled, post`: the order of `random.seed(seed); random.shuffle(mid)`."""
    m = middle(num_layers, start, affected)
    order = list(m.mid)
    random.Random(seed).shuffle(order)
    return Plan([*m.pre, *order, *m.post])


def sweep(num_layers: int, seeds: Iterable[int]) -> list[dict[str, int]]:
    """Every start layer with every seed."""
    starts = sweep_starts(num_layers, seeds)
    return [{**one, "seed": seed} for one in starts for seed in seeds]
