"""Massive activations, against the median of the whole state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.documents import Documents


class MassiveActivations(OfPlaces):
    """max |x| > 100 and at least 1000 times median |x| over tokens x channels of a text.

    As the published code prints it, per layer: the mean over texts of the largest |x| against the
    mean over texts of the median. `detail` has the share of texts that pass by themselves.
    `strict` asks for more than 1000 times, as the refined reading does.
    """

    name = "massive_activations"
    source = (
        "Sun et al. 2024, locuslab/massive-activations main_llm.py; strict: Owen et al. 2025, "
        "bluorion-com/refine_massive_activations"
    )
    trap = (
        "The median is that of the whole state, not of one token: the two differ by orders of "
        "magnitude (Qwen2.5-1.5B: 0.437 against 13.9) and turn the verdict around. BOS on or off "
        "can decide it too."
    )

    def __init__(
        self, threshold: float = 1000.0, smallest: float = 100.0, strict: bool = False
    ) -> None:
        super().__init__(threshold)
        self.ratio, self.smallest, self.strict = threshold, smallest, strict

    def options(self) -> dict[str, Any]:
        """The ratio, the smallest |x|, and whether the ratio must be exceeded."""
        return super().options() | {"smallest": self.smallest, "strict": self.strict}

    def statistics(self) -> tuple[Statistic, ...]:
        """Lines of documents."""
        return (Documents(),)

    def quantities(self, place: Place) -> Quantities:
        """`ratio`; `absmax` and `median`, means over texts; `absmax_rest`, without first tokens."""
        top, median = place.mean("absmax"), place.mean("median")
        return {
            "ratio": _ratio(top, median),
            "absmax": top,
            "median": median,
            "absmax_rest": place.mean("absmax_rest"),
        }

    def holds(self, quantities: Mapping[str, float]) -> bool | None:
        """Both conditions, of the means."""
        return bool(self._passes(quantities["absmax"], quantities["ratio"]))

    def detail(self, place: Place) -> dict[str, Any]:
        """The share of texts that pass, and the ratio of the most extreme one."""
        table = place["documents"]
        ratio = _ratio(table["absmax"], table["median"])
        passing = self._passes(table["absmax"], ratio)
        return {"documents": float(np.mean(passing)), "largest_ratio": float(np.nanmax(ratio))}

    def _passes(self, top: Any, ratio: Any) -> Any:
        far = ratio > self.ratio if self.strict else ratio >= self.ratio
        return far & (top > self.smallest)


def _ratio(top: np.ndarray, median: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return top / median
