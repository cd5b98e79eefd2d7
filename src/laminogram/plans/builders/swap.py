"""Two neighbours exchanged."""

from __future__ import annotations

from collections.abc import Iterable

from laminogram.plans.builders._middle import PAINTERS, check_layer
from laminogram.plans.plan import Plan

SUMMARY = "a layer and the next exchanged"
SOURCE = PAINTERS
SETTINGS = {"layer": "the first of the two neighbours"}


def build(num_layers: int, layer: int) -> Plan:
    """`0..N-1, N+1, N, N+2..T-1`."""
    check_layer(layer, num_layers - 2, num_layers)
    order = list(range(num_layers))
    order[layer : layer + 2] = [layer + 1, layer]
    return Plan(order)


def sweep(num_layers: int, seeds: Iterable[int]) -> list[dict[str, int]]:
    """Every pair of neighbours."""
    return [{"layer": layer} for layer in range(num_layers - 1)]
