"""Dimensions that rule the cosine between tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.cosines import Cosines


class RogueDimensions(OfPlaces):
    """Shares of the mean cosine between tokens that single channels contribute.

    `top1`, `top3`: what the largest one and three channels contribute, over all (above 1 where
    others are negative); `anisotropy`: the mean cosine.
    """

    name = "rogue_dimensions"
    source = "Timkey and van Schijndel 2021, wtimkey/rogue-dimensions replication.ipynb"
    trap = (
        "A share of an anisotropy near 0 says nothing: read both. Published with 500 000 random "
        "pairs; here all pairs, so numbers agree within that sampling."
    )

    def statistics(self) -> tuple[Statistic, ...]:
        """Contributions of channels."""
        return (Cosines(),)

    def quantities(self, place: Place) -> Quantities:
        """`top1`, `top3`, `anisotropy`."""
        parts = place["cosines"]["contribution"]
        total = parts.sum(1)
        largest = -np.sort(-parts, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "top1": largest[:, 0] / total,
                "top3": largest[:, :3].sum(1) / total,
                "anisotropy": total,
            }

    def detail(self, place: Place) -> dict[str, Any]:
        """The three channels that contribute most."""
        parts = place["cosines"]["contribution"][0]
        return {"channels": np.argsort(-parts, kind="stable")[:3].tolist()}
