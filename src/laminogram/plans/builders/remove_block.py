"""Neighbouring layers left out."""

from __future__ import annotations

from laminogram.errors import PlanError
from laminogram.plans.builders._middle import check_layer
from laminogram.plans.plan import Plan

SUMMARY = "neighbouring layers left out"
SOURCE = "Gromov et al.: The Unreasonable Ineffectiveness of the Deeper Layers (arXiv 2403.17887)"
SETTINGS = {
    "first": "the first layer to leave out",
    "last": "the last layer to leave out, itself included",
}


def build(num_layers: int, first: int, last: int) -> Plan:
    """`0..first-1, last+1..T-1`."""
    for layer in (first, last):
        check_layer(layer, num_layers - 1, num_layers)
    if first > last:
        raise PlanError(f"the block {first} to {last} ends before it begins")
    return Plan([*range(first), *range(last + 1, num_layers)])
