"""The layers of a list, in its order."""

from __future__ import annotations

from collections.abc import Iterable

from laminogram.plans.plan import Plan

SUMMARY = "the layers of a list, in its order; a layer may come more than once"
SOURCE = "the layer lists of pruning work such as ShortGPT (arXiv 2403.03853)"
SETTINGS = {"keep": 'the layers: numbers, or text such as "0-7, 25-31"'}


def build(num_layers: int, keep: str | Iterable[int]) -> Plan:
    """The layers of `keep`, in its order."""
    plan = Plan.parse(keep) if isinstance(keep, str) else Plan(keep)
    return plan.check(num_layers)
