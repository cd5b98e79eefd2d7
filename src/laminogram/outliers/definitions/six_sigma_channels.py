"""Channels whose largest value lies many standard deviations off."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.channels import Channels
from laminogram.probe.statistics.scales import Scales


class SixSigmaChannels(OfPlaces):
    """The number of channels with max |x| beyond the layer's mean by more than 6 sigma.

    Mean and sigma are those of all values of the place, tokens x channels.
    """

    name = "six_sigma_channels"
    source = "Pierro and Abreu 2024 (Mamba-PTQ)"
    trap = (
        "A reading of the description. Sigma holds the outliers: one that is large enough hides "
        "the others, and with T tokens no value can exceed sqrt(T C) sigma. Of a billion Gaussian "
        "values two exceed 6 sigma."
    )

    def __init__(self, sigmas: float = 6.0, threshold: float | None = 0.0) -> None:
        super().__init__(threshold)
        self.sigmas = sigmas

    def options(self) -> dict[str, Any]:
        """The sigmas, and how many channels are allowed."""
        return {"sigmas": self.sigmas} | super().options()

    def statistics(self) -> tuple[Statistic, ...]:
        """Maxima and moments of channels."""
        return (Scales(), Channels())

    def quantities(self, place: Place) -> Quantities:
        """`channels`."""
        return {"channels": self._found(place).sum(1).astype(np.float64)}

    def detail(self, place: Place) -> dict[str, Any]:
        """The channels, at most 64."""
        return {"outlier_channels": np.flatnonzero(self._found(place)[0])[:64].tolist()}

    def _found(self, place: Place) -> np.ndarray:
        moments = place["channels"]
        mean = moments["mean"].mean(1, keepdims=True)
        total = moments["variance"].mean(1) + moments["mean"].var(1)
        beyond: np.ndarray = (
            place["scales"]["absmax"] > mean + self.sigmas * np.sqrt(total)[:, None]
        )
        return beyond
