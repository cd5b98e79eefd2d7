"""Layers in the order of what their absence costs, beside what is read off the stream alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from laminogram.evaluate.text import Estimate
from laminogram.studies.painters.influence import Influence
from laminogram.studies.painters.measures import Meaning, Measure
from laminogram.studies.painters.points import Point


@dataclass(frozen=True, eq=False)
class Ranking:
    """layers: the dearest first; cost: by how much the measure `by` is worse without each of them,
    with the interval of the difference; agreement: Spearman's rank correlation of the cost with
    Block Influence and with the angular distance, by name."""

    by: Meaning
    layers: tuple[int, ...]
    cost: tuple[Estimate, ...]
    agreement: dict[str, float]


def ranking(points: Sequence[Point], measure: Measure, influence: Influence) -> Ranking | None:
    """From the points that leave one layer out; None where there are none."""
    found = {
        point.layer: _cost(measure.meaning, change)
        for point, change in zip(points, measure.changes, strict=True)
        if point.variant == "skip_one" and point.layer is not None
    }
    if not found:
        return None
    order = sorted(found, key=lambda layer: (-found[layer].value, layer))
    layers = sorted(found)
    cost = [found[layer].value for layer in layers]
    turned = [influence.block_influence[layer].value for layer in layers]
    agreement = {
        "block_influence": spearman(cost, turned),
        "angular": spearman(cost, influence.by_layer[layers].tolist()),
    }
    return Ranking(measure.meaning, tuple(order), tuple(found[one] for one in order), agreement)


def _cost(meaning: Meaning, change: Estimate) -> Estimate:
    if not meaning.higher_is_better:
        return change
    # From 0.0, not by a sign: there is no -0 to print.
    return Estimate(0.0 - change.value, 0.0 - change.high, 0.0 - change.low)


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """The correlation of ranks, equal values sharing theirs; NaN where one side is all equal."""
    ranks = np.stack([_ranks(np.asarray(one, dtype=np.float64)) for one in (a, b)])
    if any(len(set(one.tolist())) < 2 for one in ranks):
        return float("nan")
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: np.ndarray = (counts.cumsum() - (counts - 1) / 2)[inverse]
    return shared
