"""Outlier features as LLM.int8 defines them: across layers and positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from laminogram.outliers.base import Definition, Entry, Evidence, Place
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.bootstrap import ALL
from laminogram.probe.statistics.exceedances import Exceedances


class LlmInt8Features(Definition):
    """Channels with |x| >= 6 in at least 25 % of layers and 6 % of all sequence positions.

    Read where the products with weights read, after the norms. A layer has a channel's outlier
    where any of its sites has; positions are counted over all layers and sites together. Each
    place's value is the number of such features with |x| >= 6 there; over all places it is their
    number, with the layers and positions of the commonest one.
    """

    name = "llm_int8_features"
    source = "Dettmers et al. 2022, LLM.int8(), section 4.1 and appendix C"
    trap = (
        "Under-specified: corpus, site and how positions are pooled are open, and a user who "
        "followed the text found four features in GPT-2 where the paper has one. The 25 and 6 per "
        "cent were chosen so that the smallest model has a single feature."
    )
    sites = ("attn_in", "ffn_in")

    def __init__(
        self, magnitude: float = 6.0, layers: float = 0.25, positions: float = 0.06
    ) -> None:
        self.magnitude, self.layers, self.positions = magnitude, layers, positions

    def options(self) -> dict[str, Any]:
        """The magnitude, and the shares of layers and of positions."""
        return {
            "magnitude": self.magnitude,
            "layers": self.layers,
            "positions": self.positions,
        }

    def statistics(self) -> tuple[Statistic, ...]:
        """Counts of |x| >= magnitude."""
        return (Exceedances(self.magnitude),)

    def judge(self, evidence: Evidence) -> Iterator[Entry]:
        """Every place, then all together."""
        places = [place for place in evidence.places(self.sites) if self.can_read(place)]
        if not places:
            return
        in_layers, in_positions = self._shares(places)
        feature = (in_layers >= self.layers) & (in_positions >= self.positions)
        for place in places:
            here = feature & (place["exceedances"]["above"] > 0)
            found = np.flatnonzero(here[ALL])
            yield self._entry(here, place, channels=found[:64].tolist())
        commonest = int(np.where(feature[ALL], in_positions[ALL], -1.0).argmax())
        detail = {"channels": np.flatnonzero(feature[ALL])[:64].tolist()}
        if feature[ALL].any():
            detail |= {
                "commonest": commonest,
                "layers": float(in_layers[ALL, commonest]),
                "positions": float(in_positions[ALL, commonest]),
            }
        yield self._entry(feature, None, **detail)

    def _entry(self, found: np.ndarray, place: Place | None, **detail: Any) -> Entry:
        number = found.sum(1).astype(np.float64)
        return self.entry(
            "features", number, place, threshold=0.0, verdict=bool(number[ALL] > 0), detail=detail
        )

    def _shares(self, places: Sequence[Place]) -> tuple[np.ndarray, np.ndarray]:
        """Of every channel, the shares of layers and of positions, (P, C) each."""
        by_step: dict[int, np.ndarray] = {}
        for place in places:
            above = place["exceedances"]["above"] > 0
            by_step[place.step] = by_step.get(place.step, np.zeros_like(above)) | above
        reached = sum(place["exceedances"]["above"] for place in places)
        positions = sum(place["exceedances"]["tokens"] for place in places)
        per = np.maximum(np.asarray(positions), 1)[:, None]
        return np.mean(list(by_step.values()), axis=0), np.asarray(reached) / per
