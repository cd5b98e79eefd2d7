"""One layer left out."""

from __future__ import annotations

from collections.abc import Iterable

from laminogram.plans.builders._middle import PAINTERS, check_layer
from laminogram.plans.plan import Plan

SUMMARY = "one layer left out"
SOURCE = PAINTERS
SETTINGS = {"layer": "the layer to leave out"}


def build(num_layers: int, layer: int) -> Plan:
    """`0..N-1, N+1..T-1`."""
    check_layer(layer, num_layers - 1, num_layers)
    return Plan(i for i in range(num_layers) if i != layer)


def sweep(num_layers: int, seeds: Iterable[int]) -> list[dict[str, int]]:
    """Every layer."""
    return [{"layer": layer} for layer in range(num_layers)]
