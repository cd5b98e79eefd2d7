"""The middle left out."""

from __future__ import annotations

from laminogram.plans.builders._middle import MIDDLE_SETTINGS, PAINTERS, middle, sweep_starts
from laminogram.plans.plan import Plan

SUMMARY = "the middle left out"
SOURCE = PAINTERS
SETTINGS = MIDDLE_SETTINGS
sweep = sweep_starts


def build(num_layers: int, start: int | None = None, affected: int | None = None) -> Plan:
    """`pre, post`: 2N + 1 layer calls."""
    m = middle(num_layers, start, affected)
    return Plan([*m.pre, *m.post])
