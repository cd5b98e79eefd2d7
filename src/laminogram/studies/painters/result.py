"""What the study found: every number of every figure, with tables and a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from laminogram.evaluate.summary import AtChance
from laminogram.studies.painters.influence import SOURCES, Influence
from laminogram.studies.painters.measures import PACE, SHARE, TASK_SHARE, Measure, by_key
from laminogram.studies.painters.points import Point
from laminogram.studies.painters.ranking import Ranking
from laminogram.studies.reading import Tables
from laminogram.studies.similarity import Similarity


@dataclass(frozen=True, eq=False)
class Painters:
    """Every variant of "Transformer Layers as Painters" on one model.

    labels: the layers' names; points: what was run, the full stack first; measures: a number at
    every point each; text: what the texts' measure is, and how many units of which kind were read;
    at_chance, not_normalised: tasks that take no part in the median; tokens, token_ids: of the
    first text. It prints by `report.terminal.print_result` and shows in a notebook.
    """

    model: str
    labels: tuple[str, ...]
    points: tuple[Point, ...]
    measures: tuple[Measure, ...]
    text: str
    similarity: Similarity
    influence: Influence
    ranking: Ranking | None
    at_chance: tuple[AtChance, ...] = ()
    not_normalised: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=lambda: dict(SOURCES))
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> tuple[str, ...]:
        return self.similarity.tokens

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.similarity.token_ids

    @property
    def summary(self) -> Measure:
        """The measure of the summary figure, 1 for the full model and 0 for chance: the median over
        tasks, or the share of the text where no task stands above chance."""
        known = by_key(self.measures)
        return known.get(TASK_SHARE, known[SHARE])

    @property
    def pace(self) -> Measure:
        """Milliseconds a token of every point."""
        return by_key(self.measures)[PACE.key]

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that were run, the full stack among them."""
        return tuple(dict.fromkeys(point.variant for point in self.points))

    def some(self, *variants: str) -> dict[str, Any]:
        """The table of the points of these variants."""
        chosen = [i for i, point in enumerate(self.points) if point.variant in variants]
        return points_table(
            [self.points[i] for i in chosen], [one.at(chosen) for one in self.measures]
        )

    def tables(self) -> Tables:
        """`painters`: a row for each point; `painters-layers`: one for each layer;
        `painters-angular`: one for each state, with its distance to every other."""
        return {
            "painters": points_table(self.points, self.measures),
            "painters-layers": self.layers(),
            "painters-angular": {
                "state": list(range(len(self.labels) + 1)),
                "distance": self.influence.angular,
            },
        }

    def layers(self) -> dict[str, Any]:
        """A row for each layer: what it turns, and what its absence costs."""
        turned = self.influence.block_influence
        columns: dict[str, Any] = {
            "layer": list(range(len(self.labels))),
            "block_influence": [one.value for one in turned],
            "block_influence_low": [one.low for one in turned],
            "block_influence_high": [one.high for one in turned],
            "angular": self.influence.by_layer.copy(),
        }
        if self.ranking is not None:
            places = {layer: place for place, layer in enumerate(self.ranking.layers)}
            order = [places[layer] for layer in columns["layer"]]
            columns["rank"] = [place + 1 for place in order]
            cost, name = [self.ranking.cost[i] for i in order], f"cost_{self.ranking.by.key}"
            columns[name] = [one.value for one in cost]
            columns[f"{name}_low"] = [one.low for one in cost]
            columns[f"{name}_high"] = [one.high for one in cost]
        return columns


def points_table(points: Sequence[Point], measures: Sequence[Measure]) -> dict[str, Any]:
    """A row for each point: what it is, its plans, and every measure with its interval and
    its spread over seeds."""
    columns: dict[str, Any] = {
        "variant": [point.variant for point in points],
        "layer": [point.layer for point in points],
        "affected": [point.affected for point in points],
        "repeats": [point.repeats for point in points],
        "plans": ["; ".join(map(str, point.plans)) for point in points],
        "layer_calls": [point.layer_calls for point in points],
    }
    for one in measures:
        columns[one.key] = [value.value for value in one.values]
        columns[f"{one.key}_low"] = [value.low for value in one.values]
        columns[f"{one.key}_high"] = [value.high for value in one.values]
        columns[f"{one.key}_spread"] = list(one.spread)
    return columns
