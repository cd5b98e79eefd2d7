"""Massive activations, against the median of the token that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.documents import Documents


class MassiveTokens(OfPlaces):
    """A token with max |x| > 100 and more than 1000 times its own median |x| over channels.

    Per place: the mean over texts of the largest such ratio of a token, and of that token's max.
    """

    name = "massive_tokens"
    source = "clx1415926/Max_act_llm analyze_model.py, after Sun et al. 2024"
    trap = (
        "Called Sun's criterion where it was published, but with another median: a token that "
        "carries a spike is large in its other channels too, so it fails where the whole state "
        "passes."
    )

    def __init__(self, threshold: float = 1000.0, smallest: float = 100.0) -> None:
        super().__init__(threshold)
        self.ratio, self.smallest = threshold, smallest

    def options(self) -> dict[str, Any]:
        """The ratio and the smallest |x|."""
        return super().options() | {"smallest": self.smallest}

    def statistics(self) -> tuple[Statistic, ...]:
        """Lines of documents."""
        return (Documents(),)

    def quantities(self, place: Place) -> Quantities:
        """`ratio` of the most extreme token and its `absmax`, means over texts."""
        return {"ratio": place.mean("token_ratio"), "absmax": place.mean("token_absmax")}

    def holds(self, quantities: Mapping[str, float]) -> bool | None:
        """Both conditions, of the means."""
        return quantities["ratio"] > self.ratio and quantities["absmax"] > self.smallest

    def detail(self, place: Place) -> dict[str, Any]:
        """The share of texts with a token that passes, and the largest ratio."""
        table = place["documents"]
        passing = (table["token_ratio"] > self.ratio) & (table["token_absmax"] > self.smallest)
        return {
            "documents": float(np.mean(passing)),
            "largest_ratio": float(np.nanmax(table["token_ratio"])),
        }
