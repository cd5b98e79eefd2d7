"""From sums and task scores to the numbers of every point, with intervals.

Units (documents, or stretches of a single one) are resampled alike under all plans, so intervals
are those of a comparison; a point with several plans is their mean in every resampled set.

Axes: P plans, U units, W = 3 + R resampled sets (`probe.statistics.bootstrap`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from laminogram.evaluate.result import TaskResult
from laminogram.evaluate.summary import AtChance, Summary, summarise
from laminogram.evaluate.text import Estimate
from laminogram.evaluate.timing import TIMES, TOKENS
from laminogram.plans import Plan
from laminogram.probe.statistics.bootstrap import ALL, interval, variant_weights
from laminogram.studies.painters.points import FULL, Point

REPLICATES = 200
SHARE, TASK_SHARE = "share", "task_share"


@dataclass(frozen=True)
class Meaning:
    """What a number is: its key in tables, a title and a sentence for people, the kind of its axis
    as viewer/lines.js names them, and whether more of it is better."""

    key: str
    title: str
    says: str
    kind: str = "linear"
    higher_is_better: bool = False


@dataclass(frozen=True, eq=False)
class Measure:
    """One number at every point, in their order, the full model first.

    changes: how it differs from that of the full model, with the interval of the difference;
    spread: the standard deviation over a point's plans (seeds), NaN where it has one alone. An
    interval is over units of text, for these seeds.
    """

    meaning: Meaning
    values: tuple[Estimate, ...]
    changes: tuple[Estimate, ...]
    spread: tuple[float, ...]

    @property
    def key(self) -> str:
        return self.meaning.key

    def at(self, points: Sequence[int]) -> Measure:
        """The same of some of the points, by their numbers."""
        return Measure(
            self.meaning,
            tuple(self.values[i] for i in points),
            tuple(self.changes[i] for i in points),
            tuple(self.spread[i] for i in points),
        )

    @classmethod
    def of(cls, meaning: Meaning, draws: Sequence[np.ndarray]) -> Measure:
        """From the resampled sets (plans of the point, W) of every point."""
        means = [one.mean(0) for one in draws]
        return cls(
            meaning,
            tuple(estimate(one) for one in means),
            tuple(estimate(one - means[0]) for one in means),
            tuple(float(one[:, ALL].std(ddof=1)) if len(one) > 1 else math.nan for one in draws),
        )

    @classmethod
    def bare(cls, meaning: Meaning, numbers: Sequence[float]) -> Measure:
        """A number at every point without any interval."""
        missing = math.nan
        return cls(
            meaning,
            tuple(Estimate(one, missing, missing) for one in numbers),
            tuple(Estimate(one - numbers[0], missing, missing) for one in numbers),
            (missing,) * len(numbers),
        )


LOSS = Meaning("loss", "Loss, nats a token", "mean over tokens")
KL = Meaning(
    "kl", "KL from the unchanged model, nats", "KL(unchanged || plan), mean over tokens", "log"
)
AGREEMENT = Meaning(
    "agreement", "Same likeliest token", "share of tokens", "probability", higher_is_better=True
)
PERPLEXITY = Meaning("perplexity", "Perplexity", "exp of the loss", "log")
BITS = Meaning("bits_per_byte", "Bits a byte", "comparable between tokenizers")
DISTANCE = Meaning(
    "distance", "1 - cosine to the unchanged model", "of a text's mean last state", "log"
)
PACE = Meaning(
    "ms_per_token",
    "Wall time, ms a token",
    f"fastest of up to {TIMES} forwards of {TOKENS} tokens under that plan alone, without edits",
)
COSINE = Meaning(
    SHARE, "Cosine to the unchanged model", "of a text's mean last state", higher_is_better=True
)


@dataclass(frozen=True)
class Resampled:
    """Sums of units (P, U, columns), of which the first column counts."""

    sums: np.ndarray

    def means(self, column: int) -> np.ndarray:
        """A column divided by the count in every resampled set, (P, W); NaN where nothing was
        drawn."""
        weights = variant_weights(torch.arange(self.sums.shape[1]), REPLICATES).numpy()
        total, count = (self.sums[:, :, one] @ weights.T for one in (column, 0))
        found = np.full_like(count, math.nan)
        np.divide(total, count, out=found, where=count > 0)
        return found


def estimate(draws: np.ndarray) -> Estimate:
    """A number and its 95 per cent interval from the resampled sets (W,)."""
    low, high = interval(draws)
    return Estimate(float(draws[ALL]), float(low), float(high))


def of_points(
    points: Sequence[Point], plans: Sequence[Plan], draws: np.ndarray
) -> list[np.ndarray]:
    """Each point's plans in every resampled set (plans of the point, W), from all plans' (P, W)."""
    where = {plan: number for number, plan in enumerate(plans)}
    return [draws[[where[plan] for plan in point.plans]] for point in points]


def of_predictions(
    points: Sequence[Point],
    plans: Sequence[Plan],
    sums: np.ndarray,
    *,
    vocabulary: int,
    text_bytes: Sequence[int] | None,
) -> list[Measure]:
    """What `scorers.Predicting` sums up, as measures.

    The share puts the loss between that of guessing evenly, log V, and that of the full model.
    """
    drawn = Resampled(sums)
    loss, chance = drawn.means(1), math.log(vocabulary)
    share = np.full_like(loss, math.nan)
    np.divide(chance - loss, chance - loss[0], out=share, where=loss[0] != chance)
    says = f"(log V - loss) / (log V - loss of the full model), log V = {chance:.3f} nats"
    told = Meaning(SHARE, "Share of what the full model predicts", says, higher_is_better=True)
    found = [
        (LOSS, loss),
        (KL, drawn.means(2)),
        (AGREEMENT, drawn.means(3)),
        (PERPLEXITY, np.exp(loss)),
        (told, share),
    ]
    if text_bytes is not None:
        sizes = np.broadcast_to(np.asarray(text_bytes, float)[:, None], (*sums.shape[:2], 1))
        in_bytes = Resampled(np.concatenate((sizes, sums[..., 1:2]), -1))
        found.append((BITS, in_bytes.means(1) / math.log(2)))
    return [Measure.of(meaning, of_points(points, plans, draws)) for meaning, draws in found]


def of_readings(points: Sequence[Point], plans: Sequence[Plan], sums: np.ndarray) -> list[Measure]:
    """What `scorers.Reading` sums up, as measures: the share is the cosine itself."""
    distance = of_points(points, plans, Resampled(sums).means(1))
    return [Measure.of(DISTANCE, distance), Measure.of(COSINE, [1 - one for one in distance])]


@dataclass(frozen=True, eq=False)
class TaskMeasures:
    """What tasks say of the points: measures, which tasks stay out of the median and why."""

    measures: tuple[Measure, ...] = ()
    at_chance: tuple[AtChance, ...] = ()
    not_normalised: tuple[str, ...] = ()


def of_tasks(points: Sequence[Point], results: Sequence[TaskResult]) -> TaskMeasures:
    """The median over tasks of the shares of the full model, and each task's score."""
    if not results:
        return TaskMeasures()
    assert points[0].variant == FULL
    full = str(points[0].plans[0])
    # A point's number is its label: variants whose plans are equal stay apart.
    groups = {str(n): [str(plan) for plan in point.plans] for n, point in enumerate(points)}
    summary = summarise(results, full, groups)
    found = [_median(summary)] if summary.lines[0].median else []
    known = {(one.task, one.plan): one for one in results}
    for task in dict.fromkeys(one.task for one in results):
        first = known[task, full]
        says = f"{first.documents} documents; by chance {first.chance:.3g}"
        better = first.higher_is_better
        meaning = Meaning(task, f"{task}: {first.main}", says, higher_is_better=better)
        drawn = ([known[task, plan].draws for plan in some] for some in groups.values())
        found.append(Measure.of(meaning, [np.asarray(one) for one in drawn]))
    return TaskMeasures(tuple(found), summary.at_chance, summary.not_normalised)


def _median(summary: Summary) -> Measure:
    names = ", ".join(summary.lines[0].shares)
    says = f"median over {names} of (score - chance) / (full model - chance)"
    meaning = Meaning(TASK_SHARE, "Share of the full model, tasks", says, higher_is_better=True)
    shares = [line.median for line in summary.lines if line.median is not None]
    values = tuple(Estimate(one.value, one.low, one.high) for one in shares)
    # The full model's share is 1 in every resampled set.
    changes = tuple(Estimate(one.value - 1, one.low - 1, one.high - 1) for one in shares)
    return Measure(meaning, values, changes, (math.nan,) * len(values))


def by_key(measures: Sequence[Measure]) -> dict[str, Measure]:
    """The measures by their keys."""
    return {one.key: one for one in measures}
