"""What a task gave under one condition, item by item, with the conditions and an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from laminogram.evaluate.tasks import Task
from laminogram.probe.manifest import plain
from laminogram.probe.statistics.bootstrap import ALL, REPLICATES, interval, variant_weights

REPLICATES_OF_DOCUMENTS = 200
Interval = tuple[float, float]
Aggregation = Callable[[Sequence[Any]], float]


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task under one condition.

    metrics: by the harness' names (`acc,none`); intervals: 95 per cent, resampled by document;
    values: what each document contributes; answers: one for each request. chance: the main metric
    of answers at random; standard_error: of the main metric; draws: the main metric of every
    resampled set of documents, the same sets under all conditions. seconds_per_token: wall time of
    one forward of this plan alone, a token. conditions: model, weights hash, plan, edits, precision
    and how texts are encoded.
    """

    task: str
    version: str
    requests_hash: str
    documents: int
    plan: str
    conditions: Mapping[str, Any]
    main_metric: str
    higher_is_better: bool
    chance: float
    standard_error: float
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    values: Mapping[str, Sequence[Any]]
    answers: Sequence[Any]
    draws: Sequence[float]
    seconds_per_token: float

    @property
    def main(self) -> str:
        """The full name of the main metric: with the first of its filters."""
        return next(one for one in self.metrics if one.partition(",")[0] == self.main_metric)

    @property
    def score(self) -> float:
        """The main metric."""
        return self.metrics[self.main]

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON values."""
        fields: dict[str, Any] = plain(asdict(self))
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TaskResult:
        """What `to_json` gave, once more; other fields are left out."""
        known = {name: fields[name] for name in cls.__dataclass_fields__}
        known["standard_error"] = float(known["standard_error"])  # of one document it is infinite
        known["draws"] = [float(value) for value in known["draws"]]
        known["metrics"] = {name: float(value) for name, value in known["metrics"].items()}
        known["intervals"] = {
            name: (float(low), float(high)) for name, (low, high) in known["intervals"].items()
        }
        return cls(**known)


def measured(task: Task, answers: Sequence[Any]) -> dict[str, Any]:
    """The fields of a `TaskResult` that follow from the answers."""
    values = task.values(answers)
    documents = torch.tensor(sorted({one.document for one in task.requests}))
    weights = variant_weights(documents, REPLICATES_OF_DOCUMENTS).numpy()
    drawn = {
        name: resampled(items, task.aggregation(name), weights) for name, items in values.items()
    }
    main = next(name for name in drawn if name.partition(",")[0] == task.main_metric)
    ends = {name: interval(draws) for name, draws in drawn.items()}
    return {
        "task": task.name,
        "version": task.version,
        "requests_hash": task.requests.hash,
        "documents": len(documents),
        "main_metric": task.main_metric,
        "higher_is_better": task.higher_is_better.get(task.main_metric, True),
        "chance": task.chance,
        "standard_error": _standard_error(values[main], task.aggregation(main), drawn[main]),
        "metrics": {name: float(draws[ALL]) for name, draws in drawn.items()},
        "intervals": {name: (float(low), float(high)) for name, (low, high) in ends.items()},
        "values": values,
        "answers": list(answers),
        "draws": drawn[main].tolist(),
    }


def _standard_error(items: Sequence[Any], aggregation: Aggregation, draws: np.ndarray) -> float:
    """Of a mean by its own formula, of anything else by the spread of the resampled."""
    numbers = _numbers(items, aggregation)
    if numbers is None:
        return float(np.nanstd(draws[REPLICATES]))
    return float(numbers.std(ddof=1) / math.sqrt(len(numbers))) if len(numbers) > 1 else math.inf


def resampled(items: Sequence[Any], aggregation: Aggregation, weights: np.ndarray) -> np.ndarray:
    """A metric of all documents and of every resampled set of them, (3 + R,); NaN in place of the
    halves, and where a metric cannot be computed.

    weights: (3 + R, D) from `variant_weights`, the documents in the order of `items`.
    """
    found = np.full(len(weights), math.nan)
    numbers = _numbers(items, aggregation)
    if numbers is not None:
        totals = weights.sum(1)
        found = np.divide(weights @ numbers, totals, where=totals > 0, out=found)
        found[ALL] = aggregation(items)
        return found
    found[ALL] = aggregation(items)
    first = REPLICATES.start
    for number, counts in enumerate(weights[first:].astype(int), first):
        drawn = [item for item, count in zip(items, counts, strict=True) for _ in range(count)]
        found[number] = aggregation(drawn) if drawn else math.nan
    return found


def _numbers(items: Sequence[Any], aggregation: Aggregation) -> np.ndarray | None:
    """The items as numbers where the metric is their mean; then weights need no repetition."""
    if aggregation.__name__ != "mean":
        return None
    return np.asarray(items, dtype=np.float64)
