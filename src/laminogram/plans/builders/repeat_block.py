"""Neighbouring layers twice in a row."""

from __future__ import annotations

from laminogram.errors import PlanError
from laminogram.plans.plan import Plan

SUMMARY = "a block of layers twice: up to j, then again from i"
SOURCE = "the (i, j) configurations of RYS (dnhkng/RYS)"
SETTINGS = {
    "i": "the first layer that runs twice",
    "j": "the layer after the last that runs twice; i = j is the full stack",
}


def build(num_layers: int, i: int, j: int) -> Plan:
    """`0..j-1, i..T-1`: T + j - i layer calls."""
    if not 0 <= i <= j <= num_layers:
        raise PlanError(
            f"(i, j) = ({i}, {j}): in a stack of {num_layers} layers, 0 <= i <= j <= {num_layers}"
        )
    return Plan([*range(j), *range(i, num_layers)])
