"""The infinity norm of a tensor."""

from __future__ import annotations

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.documents import Documents


class InfinityNorm(OfPlaces):
    """max |x| over tokens x channels of a text, mean over texts. Over all places: the largest."""

    name = "infinity_norm"
    source = "Bondarenko et al. 2023, qualcomm-ai-research/outlier-free-transformers"
    trap = (
        "It has a scale: models of another width or norm are not comparable by it. And it is a "
        "mean of maxima over texts, not the maximum over all, which grows with the data."
    )
    overall = {"infinity_norm": ("max",)}  # noqa: RUF012

    def statistics(self) -> tuple[Statistic, ...]:
        """Lines of documents."""
        return (Documents(),)

    def quantities(self, place: Place) -> Quantities:
        """`infinity_norm`; and without first tokens."""
        return {
            "infinity_norm": place.mean("absmax"),
            "infinity_norm_rest": place.mean("absmax_rest"),
        }
