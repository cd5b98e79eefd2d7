"""What a comparison found, as data and as tables.

Axes: M matches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from laminogram.evaluate.divergence import Estimate
from laminogram.studies.compare.distributions import Shift
from laminogram.studies.compare.matching import Match, Rule
from laminogram.studies.compare.outputs import Measured
from laminogram.studies.reading import Tables

Shared = Literal["tokens", "text", "nothing"]
SMALL = 100_000_000
"""Fewer parameters than that make a model small, of which nothing follows for large ones."""


@dataclass(frozen=True)
class SitePair:
    """A site at one step of both: how far its states and its distributions lie apart.

    error: |b - a| / |a| of a token's state, mean over tokens; distance: 1 - cosine, mean over
    tokens; cka: linear centred kernel alignment, where widths differ, and cka_null what it is of
    shuffled tokens. None where it is not defined.
    """

    match: Match
    shift: Shift
    error: Estimate | None = None
    distance: Estimate | None = None
    cka: Estimate | None = None
    cka_null: float = float("nan")


@dataclass(frozen=True, eq=False)
class Pair:
    """One condition beside the reference.

    shared: what both read alike: the same tokens, the same text (in tokens of their own), or
    nothing. rule: how steps are matched. notes: what could not be compared, and why.
    """

    reference: str
    other: str
    shared: Shared
    rule: Rule
    outputs: tuple[Measured, ...]
    places: tuple[SitePair, ...]
    notes: tuple[str, ...] = ()

    def output(self, measure: str) -> Estimate:
        """A measure of the outputs; KeyError where it was not defined."""
        return {one.measure: one.estimate for one in self.outputs}[measure]

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.match.site for one in self.places))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Conditions beside the first of them, the reference.

    conditions: of each its label, what its manifest says, and how many parameters it has. documents
    and tokens: those of the reference's input.
    """

    labels: tuple[str, ...]
    facts: tuple[dict[str, Any], ...]
    parameters: tuple[int, ...]
    pairs: tuple[Pair, ...]
    documents: int
    tokens: int
    scale: str
    bin_width: float
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """All conditions in one line."""
        return " / ".join(self.labels)

    @property
    def small(self) -> tuple[str, ...]:
        """The labels of models with fewer than `SMALL` parameters."""
        sized = zip(self.labels, self.parameters, strict=True)
        return tuple(label for label, size in sized if size < SMALL)

    def tables(self) -> Tables:
        """`compare-conditions`, `compare-outputs`, `compare-sites`."""
        return {
            "compare-conditions": columns(self._condition_rows()),
            "compare-outputs": columns(self._output_rows()),
            "compare-sites": columns(self._site_rows()),
        }

    def _condition_rows(self) -> Iterator[dict[str, Any]]:
        kept = ("model", "family", "precision", "plan", "weights_hash")
        for label, facts, size in zip(self.labels, self.facts, self.parameters, strict=True):
            row = {"condition": label} | {name: str(facts[name]) for name in kept}
            yield row | {"edits": "; ".join(facts["edits"]), "parameters": size}

    def _output_rows(self) -> Iterator[dict[str, Any]]:
        for pair in self.pairs:
            for one in pair.outputs:
                yield {
                    "reference": pair.reference,
                    "other": pair.other,
                    "measure": one.measure,
                    **asdict(one.estimate),
                    "meaning": one.meaning,
                }

    def _site_rows(self) -> Iterator[dict[str, Any]]:
        for pair in self.pairs:
            for one in pair.places:
                row: dict[str, Any] = {"reference": pair.reference, "other": pair.other}
                row |= asdict(one.match)
                row |= spread("relative_error", one.error)
                row |= spread("cosine_distance", one.distance)
                row |= spread("cka", one.cka) | spread("jsd", one.shift.jsd)
                shift = one.shift
                yield row | {
                    "cka_null": one.cka_null,
                    "null": shift.null,
                    "null_high": shift.null_high,
                    "crossed": shift.crossed,
                }


def spread(name: str, found: Estimate | None) -> dict[str, float]:
    """An estimate as three columns; NaN for none."""
    value = Estimate(*(float("nan"),) * 3) if found is None else found
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def columns(rows: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of equal keys as columns; none of none."""
    listed = list(rows)
    return {name: [row[name] for row in listed] for name in listed[0]} if listed else {}
