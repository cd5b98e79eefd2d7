"""Excess kurtosis over the channels of each token, with and without context."""

from __future__ import annotations

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.documents import Documents


class TokenKurtosis(OfPlaces):
    """max(0, mean(x**4) / s**4 - 3) over the channels of a token, mean over tokens, then texts.

    The fourth power is not centred, s is the unbiased standard deviation. Each token is read in its
    context.
    """

    name = "token_kurtosis"
    source = "Park et al. 2025 (OSP), dmis-lab/Outlier-Safe-Pre-Training evaluate_kurtosis.py"
    trap = (
        "The published numbers are not this: that script gives the model 2048 texts of one token "
        "each, so every token stands first and alone. See `token_kurtosis_alone`."
    )
    overall = {"excess_kurtosis": ("mean",)}  # noqa: RUF012

    def statistics(self) -> tuple[Statistic, ...]:
        """Lines of documents."""
        return (Documents(),)

    def quantities(self, place: Place) -> Quantities:
        """`excess_kurtosis`."""
        return {"excess_kurtosis": place.mean("excess")}


class TokenKurtosisAlone(TokenKurtosis):
    """The same where each token is a text of its own: what the published table holds."""

    name = "token_kurtosis_alone"
    context = "alone"
    trap = (
        "A statistic of first positions: sinks and massive activations that form at the first "
        "token are in every number, whatever the model does with a text."
    )
