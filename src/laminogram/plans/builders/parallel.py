"""The middle in parallel."""

from __future__ import annotations

from laminogram.plans.builders._middle import MIDDLE_SETTINGS, PAINTERS, middle, sweep_starts
from laminogram.plans.plan import Plan

SUMMARY = "all middle layers read the same input, outputs averaged"
SOURCE = PAINTERS
SETTINGS = MIDDLE_SETTINGS
sweep = sweep_starts


def build(num_layers: int, start: int | None = None, affected: int | None = None) -> Plan:
    """`pre, mean(mid), post`: h + mean of f_i(h) over the middle layers, not their sum."""
    m = middle(num_layers, start, affected)
    return Plan([*m.pre, Plan.mean(m.mid), *m.post])
