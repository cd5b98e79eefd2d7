"""Kurtosis of a sequence's whole tensor."""

from __future__ import annotations

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.documents import Documents

_EPS = 1e-6


class SequenceKurtosis(OfPlaces):
    """mu4 / (s**4 + 1e-6) over tokens x channels of a text, mean over texts; 3 for a Gaussian.

    s is the unbiased standard deviation, mu4 the mean fourth power about the mean. Over all places:
    the mean and the largest, as published.
    """

    name = "sequence_kurtosis"
    source = "Bondarenko et al. 2023, qualcomm-ai-research/outlier-free-transformers utils.py"
    trap = (
        "Not excess: 3 is Gaussian. The 1e-6 hides tensors of tiny scale. No measure of size: "
        "clipped softmax raised the kurtosis of OPT tenfold while it cut the largest value to a "
        "fifth."
    )
    overall = {"kurtosis": ("mean", "max")}  # noqa: RUF012

    def statistics(self) -> tuple[Statistic, ...]:
        """Lines of documents."""
        return (Documents(),)

    def quantities(self, place: Place) -> Quantities:
        """`kurtosis`."""
        table = place["documents"]
        count = table["count"]
        unbiased = table["variance"] * count / (count - 1).clip(min=1)
        return {"kurtosis": place.mean(table["fourth"] / (unbiased**2 + _EPS))}
