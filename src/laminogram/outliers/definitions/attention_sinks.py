"""Attention sinks: heads that attend to the first token."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.outliers.evidence import DRAWS, weighted_mean
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.sinks import Sinks


class AttentionSinks(OfPlaces):
    """A head whose mean attention to the first token exceeds 0.3.

    `importance`: that of the layer's strongest head, mean over texts, which the threshold is for;
    `sink_rate`: the published number, the share of (text, head) above the threshold.
    """

    name = "attention_sinks"
    source = "Gu et al. 2025, sail-sg/Attention-Sink eval_sink_open_source.py"
    trap = (
        "The mean is over the queries from the key on, not over all; the first token sees itself "
        "alone, which adds 1 / T. Texts are cut to 64 tokens. Repeated tokens remove the sink in "
        "some models. In recurrent layers the effective attention is judged, which may be signed."
    )
    sites = ("pattern",)
    context = "start"
    overall = {"sink_rate": ("mean",)}  # noqa: RUF012

    def __init__(self, threshold: float = 0.3) -> None:
        super().__init__(threshold)
        self.eps = threshold

    def statistics(self) -> tuple[Statistic, ...]:
        """The importance of first keys."""
        return (Sinks(),)

    def quantities(self, place: Place) -> Quantities:
        """`importance`, `sink_rate`."""
        first = place["sinks"]["importance"][:, :, 0]
        weights = place.weights(DRAWS, "sinks")
        return {
            "importance": weighted_mean(first, weights).max(1),
            "sink_rate": weighted_mean((first > self.eps).mean(1), weights),
        }

    def detail(self, place: Place) -> dict[str, Any]:
        """The heads that are sinks in the mean over texts, and the importance of the first keys."""
        importance = place["sinks"]["importance"]
        heads = importance[:, :, 0].mean(0)
        return {
            "heads": np.flatnonzero(heads > self.eps).tolist(),
            "by_key": weighted_mean(importance.mean(1), np.ones((1, len(importance))))[0].tolist(),
        }
