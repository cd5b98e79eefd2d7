"""Comparing conditions: see `comparison`, and `conditions` for their form as text."""

from __future__ import annotations

from laminogram.studies.compare.comparison import SITES, compare
from laminogram.studies.compare.conditions import Condition
from laminogram.studies.compare.result import Comparison, Pair, SitePair

__all__ = ["SITES", "Comparison", "Condition", "Pair", "SitePair", "compare"]
