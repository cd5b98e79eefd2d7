"""How much of a model's ability a changed plan keeps: every task between chance and the full model.

The normalisation of "Transformer Layers as Painters" (Sun et al., arXiv 2407.09298): a task's score
less that of chance, divided by what the full model has more than chance; then the median over
tasks. Documents are resampled alike under all plans, so the intervals are those of a comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from laminogram.errors import ConfigError
from laminogram.evaluate.result import TaskResult
from laminogram.probe.statistics.bootstrap import ALL, interval

ABOVE_CHANCE = 5
"""Standard errors that the full model must be above chance, or a task says nothing of others."""


@dataclass(frozen=True)
class Share:
    """A normalised score, 0 at chance and 1 as the full model, with its 95 per cent interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @classmethod
    def of(cls, draws: np.ndarray) -> Share:
        """From the values of all documents and of resampled ones (3 + R,)."""
        low, high = interval(draws)
        return cls(float(draws[ALL]), float(low), float(high))


@dataclass(frozen=True)
class Line:
    """One condition: a plan, or several whose scores are averaged, such as the seeds of a shuffle.

    shares: by task, those at chance left out; median: over these, None where there is none;
    scores: the main metric itself, by task.
    """

    label: str
    plans: tuple[str, ...]
    scores: Mapping[str, float]
    shares: Mapping[str, Share]
    median: Share | None
    seconds_per_token: float


@dataclass(frozen=True)
class AtChance:
    """A task at which the full model is not clearly better than chance, and so takes no part."""

    task: str
    score: float
    chance: float
    standard_error: float

    def __str__(self) -> str:
        return (
            f"{self.task}: at chance ({self.score:.3f} where chance gives {self.chance:.3f}, "
            f"standard error {self.standard_error:.3f})"
        )


@dataclass(frozen=True)
class Summary:
    """Every condition, the tasks at chance, and those whose metric has no chance to start from.

    Prints as a line a condition: its median share, then the score of every task.
    """

    lines: tuple[Line, ...]
    at_chance: tuple[AtChance, ...]
    not_normalised: tuple[str, ...]

    def __str__(self) -> str:
        tasks = list(dict.fromkeys(task for line in self.lines for task in line.scores))
        table = [["plan", "median share", *tasks]]
        for line in self.lines:
            scores = (f"{line.scores[task]:.4g}" if task in line.scores else "-" for task in tasks)
            table.append([line.label, str(line.median or "-"), *scores])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        rows = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        )
        return "\n".join([*rows, *map(str, self.at_chance)])


def summarise(
    results: Sequence[TaskResult],
    full: str,
    conditions: Mapping[str, Sequence[str]] | None = None,
) -> Summary:
    """Set results of many plans against those of the plan `full`.

    conditions: by label the plans that it averages; by default every plan is one. ConfigError where
    a task lacks one of the plans.
    """
    found = {(one.task, one.plan): one for one in results}
    tasks = list(dict.fromkeys(one.task for one in results))
    plans = list(dict.fromkeys(one.plan for one in results))
    chosen = {plan: [plan] for plan in plans} if conditions is None else conditions
    for task in tasks:
        for plan in [full, *(plan for some in chosen.values() for plan in some)]:
            if (task, plan) not in found:
                raise ConfigError(
                    f"{task} has no result for plan {plan}; it has "
                    f"{'; '.join(plan for one, plan in found if one == task)}"
                )
    base = {task: found[task, full] for task in tasks}
    normal = [task for task in tasks if base[task].higher_is_better]
    usable = [task for task in normal if _above_chance(base[task])]
    lines = tuple(
        _line(label, [[found[task, plan] for plan in some] for task in tasks], base, usable)
        for label, some in chosen.items()
    )
    weak = (base[task] for task in normal if task not in usable)
    return Summary(
        lines,
        tuple(AtChance(one.task, one.score, one.chance, one.standard_error) for one in weak),
        tuple(task for task in tasks if task not in normal),
    )


def _above_chance(full: TaskResult) -> bool:
    above = full.score - full.chance
    return above > 0 and above >= ABOVE_CHANCE * full.standard_error


def _line(
    label: str,
    by_task: Sequence[Sequence[TaskResult]],
    base: Mapping[str, TaskResult],
    usable: Sequence[str],
) -> Line:
    shares = {}
    for results in by_task:
        full = base[results[0].task]
        if full.task in usable:
            with np.errstate(divide="ignore", invalid="ignore"):
                drawn = np.mean([one.draws for one in results], axis=0) - full.chance
                shares[full.task] = drawn / (np.asarray(full.draws) - full.chance)
    return Line(
        label,
        tuple(one.plan for one in by_task[0]),
        {results[0].task: float(np.mean([one.score for one in results])) for results in by_task},
        {task: Share.of(draws) for task, draws in shares.items()},
        Share.of(np.median(list(shares.values()), axis=0)) if shares else None,
        float(np.mean([one.seconds_per_token for results in by_task for one in results])),
    )
