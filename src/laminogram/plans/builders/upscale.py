"""Depth up-scaling: two copies of the stack, one after the other, without their inner ends."""

from __future__ import annotations

from laminogram.errors import PlanError
from laminogram.plans.plan import Plan

SUMMARY = "depth up-scaling: the stack twice, without the last layers and then without the first"
SOURCE = "Kim et al.: SOLAR 10.7B (arXiv 2312.15166)"
SETTINGS = {"remove": "how many layers each copy loses, m: 8 of 32 layers give 48"}


def build(num_layers: int, remove: int) -> Plan:
    """`0..T-m-1, m..T-1`: 2 (T - m) layer calls."""
    if not 0 <= remove < num_layers:
        raise PlanError(
            f"each copy of a stack of {num_layers} layers loses 0 to {num_layers - 1} layers, "
            f"not {remove}"
        )
    return Plan([*range(num_layers - remove), *range(remove, num_layers)])
