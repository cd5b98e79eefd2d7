"""What definitions look at: the statistics of one place, and of all places of a run.

Axes: P variants (all documents, two halves, replicates: see `probe.statistics.bootstrap`), n
documents, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch

from laminogram.errors import ConfigError
from laminogram.probe.statistics import Measurement
from laminogram.probe.statistics.bootstrap import variant_weights

Context = Literal["full", "start", "alone"]
"""How tokens were read: `full` texts; only the `start` of each, for attention patterns; or every
token `alone`, as a text of its own."""

Table = dict[str, np.ndarray]

DRAWS = 1000
"""Replicates where a line a document is kept, and more cost nothing."""


@dataclass(frozen=True)
class Place:
    """The statistics of one site at one step, by name."""

    site: str
    step: int
    layer: int
    tables: Mapping[str, Table]

    def __getitem__(self, statistic: str) -> Table:
        if statistic not in self.tables:
            raise ConfigError(
                f"{statistic!r} was not measured at {self.site!r}, step {self.step}; there is "
                f"{', '.join(self.tables) or 'nothing'}"
            )
        return self.tables[statistic]

    def weights(self, replicates: int = DRAWS, statistic: str = "documents") -> np.ndarray:
        """How often each document of a statistic's lines counts in each variant, (P, n)."""
        ids = np.ascontiguousarray(self[statistic]["document"], dtype=np.int64)
        return _weights(ids.tobytes(), replicates)

    def mean(self, column: str | np.ndarray) -> np.ndarray:
        """The mean over documents, every document alike, of a column of `documents`: (P,)."""
        values = self["documents"][column] if isinstance(column, str) else column
        return weighted_mean(values, self.weights())


@lru_cache(maxsize=4)
def _weights(documents: bytes, replicates: int) -> np.ndarray:
    """The weights (P, n) of int64 ids, drawn once for all places that hold the same documents."""
    ids = torch.frombuffer(bytearray(documents), dtype=torch.int64)
    weights: np.ndarray = variant_weights(ids, replicates).numpy()
    weights.flags.writeable = False
    return weights


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of values (n, ...) under weights (P, n): (P, ...). NaN values take no part; NaN where
    none is left."""
    known = ~np.isnan(values)
    flat = np.where(known, values, 0.0).reshape(len(values), -1)
    count = weights @ known.reshape(len(values), -1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (weights @ flat) / count
    return mean.reshape(len(weights), *values.shape[1:])


@dataclass
class Evidence:
    """All that was measured, for definitions to judge.

    `measurements` by context; `view` where weights may be looked at. For the context `alone`, where
    one line stands for one token id, `tokens` says which ids each document has. `asked` are the
    sites at which definitions look that read no site of their own; None for all that were measured.
    """

    measurements: Mapping[Context, Measurement]
    view: Any = None
    tokens: Sequence[Sequence[int]] = ()
    asked: tuple[str, ...] | None = None
    _cache: dict[tuple[str, str, int], Place] = field(default_factory=dict)

    def steps(self, site: str, context: Context = "full") -> tuple[int, ...]:
        """The steps at which a site was measured."""
        measurement = self.measurements.get(context)
        if measurement is None:
            return ()
        return tuple(sorted({step for _, at, step in measurement if at == site}))

    def sites(self, context: Context = "full") -> tuple[str, ...]:
        """The sites at which definitions look that read no site of their own."""
        measurement = self.measurements.get(context)
        measured = () if measurement is None else measurement.sites
        return tuple(site for site in measured if self.asked is None or site in self.asked)

    def place(self, site: str, step: int, context: Context = "full") -> Place:
        """The statistics of one site at one step, each read once."""
        key = (context, site, step)
        if key not in self._cache:
            self._cache[key] = self._read(site, step, context)
        return self._cache[key]

    def places(self, sites: Sequence[str], context: Context = "full") -> Iterator[Place]:
        """Site by site, the places where these were measured."""
        for site in sites:
            for step in self.steps(site, context):
                yield self.place(site, step, context)

    def _read(self, site: str, step: int, context: Context) -> Place:
        measurement = self.measurements[context]
        tables = {
            name: measurement[name, at, number].result()
            for name, at, number in measurement
            if (at, number) == (site, step)
        }
        layer = measurement.step_layers.get(step, (-1, None))[0]
        if context == "alone":
            tables = {"documents": self._by_document(tables["documents"])}
        return Place(site, step, layer, tables)

    def _by_document(self, lines: Table) -> Table:
        """Means over each document's tokens, from one line for each token id."""
        rows = [np.searchsorted(lines["document"], row) for row in self.tokens]
        columns: Table = {"document": np.arange(len(rows))}
        for name, values in lines.items():
            if values.dtype.kind == "f":
                means = [weighted_mean(values[row], np.ones((1, len(row))))[0] for row in rows]
                columns[name] = np.array(means)
        return columns
