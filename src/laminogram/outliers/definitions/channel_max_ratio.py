"""Channels whose largest value towers over those of the others."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.scales import Scales


class ChannelMaxRatio(OfPlaces):
    """max_c m / median_c m with m a channel's max |x| over tokens; an outlier above 100."""

    name = "channel_max_ratio"
    source = "bo-ke/llm-internal-medicine docs/massive_activation.md"
    trap = "A maximum grows with the number of tokens: compare only at equal amounts of text."

    def __init__(self, threshold: float | None = 100.0) -> None:
        super().__init__(threshold)

    def statistics(self) -> tuple[Statistic, ...]:
        """Maxima of channels."""
        return (Scales(),)

    def quantities(self, place: Place) -> Quantities:
        """`ratio`, and how many `channels` exceed the threshold times the median."""
        ratio = ratio_to_median(place["scales"]["absmax"])
        limit = np.inf if self.threshold is None else self.threshold
        return {"ratio": ratio.max(1), "channels": (ratio > limit).sum(1).astype(np.float64)}

    def detail(self, place: Place) -> dict[str, Any]:
        """The channels, largest first, at most eight."""
        absmax = place["scales"]["absmax"][0]
        return {"largest_channels": np.argsort(-absmax, kind="stable")[:8].tolist()}


def ratio_to_median(scales: np.ndarray) -> np.ndarray:
    """Scales (P, C) as multiples of the median channel's."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return scales / np.median(scales, axis=1, keepdims=True)
