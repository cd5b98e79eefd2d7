"""The largest channel against the middle one."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.channels import Channels


class MaxMedianRatio(OfPlaces):
    """max_c s / median_c s with s a channel's RMS over tokens."""

    name = "max_median_ratio"
    source = "He et al. 2024, Understanding and Minimising Outlier Features"
    trap = (
        "RMS, not max: not the ratio that quantisation papers plot, which is `channel_max_ratio`. "
        "No threshold; compare with the value at initialisation."
    )

    def statistics(self) -> tuple[Statistic, ...]:
        """Energies of channels."""
        return (Channels(),)

    def quantities(self, place: Place) -> Quantities:
        """`ratio`."""
        size = np.sqrt(place["channels"]["energy"])
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"ratio": size.max(1) / np.median(size, axis=1)}

    def detail(self, place: Place) -> dict[str, Any]:
        """The channel that is largest."""
        return {"channel": int(place["channels"]["energy"][0].argmax())}
