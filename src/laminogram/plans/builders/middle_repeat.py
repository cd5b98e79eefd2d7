"""The middle replaced by the centre layer."""

from __future__ import annotations

from laminogram.plans.builders._middle import MIDDLE_SETTINGS, PAINTERS, middle, sweep_starts
from laminogram.plans.plan import Plan

SUMMARY = "the centre layer in place of every middle layer"
SOURCE = PAINTERS
SETTINGS = MIDDLE_SETTINGS
sweep = sweep_starts


def build(num_layers: int, start: int | None = None, affected: int | None = None) -> Plan:
    """`pre, M times layer T//2, post`: T layer calls."""
    m = middle(num_layers, start, affected)
    return Plan([*m.pre, *[num_layers // 2] * len(m.mid), *m.post])
