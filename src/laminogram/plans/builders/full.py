"""The whole stack in order."""

from __future__ import annotations

from collections.abc import Iterable

from laminogram.plans.plan import Plan

SUMMARY = "every layer once, in order"
SOURCE = "the stack itself"
SETTINGS: dict[str, str] = {}


def build(num_layers: int) -> Plan:
    """`0..T-1`."""
    return Plan.full(num_layers)


def sweep(num_layers: int, seeds: Iterable[int]) -> list[dict[str, int]]:
    """Once: there is nothing to set."""
    return [{}]
