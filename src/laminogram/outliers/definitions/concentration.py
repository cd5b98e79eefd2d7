"""Concentration that no rotation of the channels changes."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.bootstrap import ALL
from laminogram.probe.statistics.covariance import Covariance
from laminogram.probe.statistics.documents import Documents


class Concentration(OfPlaces):
    """How few directions hold a place's variance, and how uneven its tokens' norms are.

    `rho` = sigma_1(X - mean) / |X - mean|_F, 1 / sqrt(C) to 1; `participation_ratio` of the
    covariance's eigenvalues, in directions; `norm_ratio`: the largest token norm against the
    median one, means over texts. The first two have halves instead of an interval.
    """

    name = "concentration"
    source = "rho and norm ratio as proposed for basis-free reporting; no published tool has them"
    trap = (
        "Wide sites are seen through a random projection (see the statistic `covariance`), whose "
        "error is shared by all measurements: differences are better than levels."
    )

    def statistics(self) -> tuple[Statistic, ...]:
        """Second moments, and norms of tokens."""
        return (Covariance(), Documents())

    def quantities(self, place: Place) -> Quantities:
        """`rho`, `participation_ratio`, `norm_ratio`."""
        table = place["covariance"]
        values = table["eigenvalues"]
        total, squares = values.sum(1), (values**2).sum(1)
        if table["sketched"]:
            # A Gaussian projection to k adds total**2 / k to the squares, and a k-th of them.
            k = float(table["sketched"])
            squares = (squares - total**2 / k) / (1 + 1 / k)
            squares = np.where(squares > 0, squares, np.nan)  # a spectrum flatter than it can see
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "rho": np.sqrt(values[:, 0] / total),
                "participation_ratio": total**2 / squares,
                "norm_ratio": place.mean("norm_max") / place.mean("norm_median"),
            }

    def detail(self, place: Place) -> dict[str, Any]:
        """The share of the first eight directions, and the width of the sketch (0: exact)."""
        values = place["covariance"]["eigenvalues"][ALL]
        return {
            "shares": (values[:8] / values.sum()).tolist() if values.sum() > 0 else [],
            "sketched": int(place["covariance"]["sketched"]),
        }
