"""Kurtosis of the channels' sizes."""

from __future__ import annotations

import numpy as np

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.channels import Channels


class ChannelKurtosis(OfPlaces):
    """mean_c(s**4) / mean_c(s**2)**2 with s a channel's RMS over tokens: 1 (even) to C (one holds
    all)."""

    name = "channel_kurtosis"
    source = "He et al. 2024, Understanding and Minimising Outlier Features"
    trap = (
        "The formula is a reading of the description (kurtosis of per-neuron RMS, between 1 and "
        "the width), not of code. One massive token makes a channel's RMS large: it does not tell "
        "a channel that is always large from one that once was. Compare with initialisation."
    )

    def statistics(self) -> tuple[Statistic, ...]:
        """Energies of channels."""
        return (Channels(),)

    def quantities(self, place: Place) -> Quantities:
        """`kurtosis`."""
        energy = place["channels"]["energy"]
        with np.errstate(invalid="ignore"):
            return {"kurtosis": (energy**2).mean(1) / energy.mean(1) ** 2}
