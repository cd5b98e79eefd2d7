"""Dispersion: how widely values spread, between what, and how few hold it."""

from __future__ import annotations

import numpy as np

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.outliers.evidence import weighted_mean
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.bootstrap import REPLICATES
from laminogram.probe.statistics.channels import Channels
from laminogram.probe.statistics.documents import Documents

TOPS = (1, 2, 4, 8)


class Dispersion(OfPlaces):
    """The variance over tokens x channels, how it adds up, and measures that outliers do not rule.

    - `variance` = `within_tokens` + `between_tokens`: over the channels of a token; of the tokens'
      means.
    - `variance` = `within_channels` + `between_channels`: over the tokens of a channel; of the
      channels' means.
    - `within_channels` = `within_documents` + `between_documents`: what the channels' means over a
      text leave, and their own variance. A high share between texts is content, none is a bias.
    - `rms`, `std`; `mad` and `iqr` of a text's values, mean over texts; `top1` to `top8`: the share
      of the sum of squares in so many channels; `participation_ratio` (sum e)**2 / sum e**2, in
      channels.
    """

    name = "dispersion"
    source = "law of total variance; participation ratio and energy shares as used throughout"
    trap = (
        "The variance is an outlier detector, not a measure of dispersion: one value of 13952 "
        "among a few million was all of Qwen3-1.7B's at layer 2. Read it beside mad and iqr. Mad "
        "and iqr carry the histogram's bin, 4.4 per cent."
    )

    def statistics(self) -> tuple[Statistic, ...]:
        """Lines of documents, moments of channels."""
        return (Documents(), Channels())

    def quantities(self, place: Place) -> Quantities:
        """All of the class's table."""
        channels = place["channels"]
        energy = channels["energy"]
        quantities = _variances(place)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = -np.sort(-energy, axis=1) / energy.sum(1, keepdims=True)
            return quantities | {
                "rms": np.sqrt(energy.mean(1)),
                "std": np.sqrt(quantities["variance"]),
                "mad": place.mean("mad"),
                "iqr": place.mean(_iqr(place)),
                **{f"top{k}": shares[:, :k].sum(1) for k in TOPS},
                "participation_ratio": 1 / (shares**2).sum(1),
            }


def _iqr(place: Place) -> np.ndarray:
    table = place["documents"]
    iqr: np.ndarray = table["quartile_high"] - table["quartile_low"]
    return iqr


def _variances(place: Place) -> Quantities:
    """The parts, each text weighing as many tokens as it has."""
    lines, channels = place["documents"], place["channels"]
    replicates = len(channels["tokens"][REPLICATES])
    weights = place.weights(replicates) * lines["tokens"]
    mean = weighted_mean(lines["mean"], weights)[:, None]
    apart = (lines["mean"] - mean) ** 2  # (P, n)
    share = weights / np.maximum(weights.sum(1, keepdims=True), 1)
    of_means = np.nansum(share * apart, axis=1)
    variance = weighted_mean(lines["variance"], weights) + of_means
    between_tokens = weighted_mean(lines["between_tokens"], weights) + of_means
    within_channels = channels["variance"].mean(1)
    within_documents = weighted_mean(lines["within_channels"], weights)
    return {
        "variance": variance,
        "within_tokens": variance - between_tokens,
        "between_tokens": between_tokens,
        "within_channels": within_channels,
        "between_channels": channels["mean"].var(1),
        "within_documents": within_documents,
        "between_documents": np.maximum(within_channels - within_documents, 0.0),
    }
