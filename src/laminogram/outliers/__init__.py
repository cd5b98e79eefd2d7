"""Outliers: every published definition, side by side, on the same tensors.

One definition is one file of `definitions/`, found by its name. All read streaming statistics, so
nothing is stored but these; all give the same kind of entry, with an interval over documents.

    table = outliers.verdicts(view, texts)
    table.differ()
"""

from __future__ import annotations

from laminogram.outliers.base import Definition, Entry, Evidence, available, create, find
from laminogram.outliers.verdicts import Verdicts, judge, verdicts

__all__ = [
    "Definition",
    "Entry",
    "Evidence",
    "Verdicts",
    "available",
    "create",
    "find",
    "judge",
    "verdicts",
]
