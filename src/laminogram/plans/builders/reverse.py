"""The middle in reverse order."""

from __future__ import annotations

from laminogram.plans.builders._middle import MIDDLE_SETTINGS, PAINTERS, middle, sweep_starts
from laminogram.plans.plan import Plan

SUMMARY = "the middle in reverse order"
SOURCE = PAINTERS
SETTINGS = MIDDLE_SETTINGS
sweep = sweep_starts


def build(num_layers: int, start: int | None = None, affected: int | None = None) -> Plan:
    """`pre, mid reversed, post`: T layer calls."""
    m = middle(num_layers, start, affected)
    return Plan([*m.pre, *reversed(m.mid), *m.post])
