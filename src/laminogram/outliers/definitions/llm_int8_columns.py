"""Outlier columns as LLM.int8 finds them at run time."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.exceedances import Exceedances


class LlmInt8Columns(OfPlaces):
    """Columns with any |x| >= 6 in the input of one product: what is kept in half precision.

    A call is a text here: `columns` is their number, mean over texts; `columns_ever` those that any
    text needs.
    """

    name = "llm_int8_columns"
    source = (
        "bitsandbytes, backends/default/ops.py (the rule that runs), after Dettmers et al. 2022"
    )
    trap = (
        "Another definition under the same name: no share of layers or positions, decided anew for "
        "every call, so it depends on what else is in the batch."
    )
    sites = ("attn_in", "z", "ffn_in", "ffn_act")

    def __init__(self, magnitude: float = 6.0, threshold: float | None = 0.0) -> None:
        super().__init__(threshold)
        self.magnitude = magnitude

    def options(self) -> dict[str, Any]:
        """The magnitude, and how many columns are allowed."""
        return {"magnitude": self.magnitude} | super().options()

    def statistics(self) -> tuple[Statistic, ...]:
        """Counts of |x| >= magnitude."""
        return (Exceedances(self.magnitude),)

    def quantities(self, place: Place) -> Quantities:
        """`columns`, `columns_ever`."""
        table = place["exceedances"]
        texts = np.where(table["documents"] > 0, table["documents"], np.nan)
        return {
            "columns": table["documents_above"].sum(1) / texts,
            "columns_ever": (table["above"] > 0).sum(1).astype(np.float64),
        }

    def detail(self, place: Place) -> dict[str, Any]:
        """The columns, most frequent first, at most eight."""
        above = place["exceedances"]["above"][0]
        order = np.argsort(-above, kind="stable")[:8]
        return {"largest_columns": [int(one) for one in order if above[one]]}
