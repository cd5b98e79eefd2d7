"""What a report costs, said before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from laminogram import outliers
from laminogram.outliers.needs import default_sites, memory, needs
from laminogram.probe.subject import Subject
from laminogram.stack.batch import Batch
from laminogram.studies.operations import ONCE
from laminogram.studies.outlier_report.settings import Rows, Settings

TARGETS = 2
"""Targets of operations that are reckoned with; how many there are is known once they are found."""


@dataclass(frozen=True)
class Cost:
    """Documents and tokens of one input, texts run through the model in all, bytes of statistics
    beyond the model, and seconds, reckoned from one document."""

    model: str
    inputs: int
    documents: int
    tokens: int
    forwards: int
    statistics: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.model}: {self.documents} document{'s' if self.documents > 1 else ''} "
            f"({self.tokens:,} tokens), "
            f"{self.inputs} input{'s' if self.inputs > 1 else ''}, about {self.forwards:,} texts "
            f"through the model, statistics {self.statistics / 1e6:.1f} MB, about "
            f"{_duration(self.seconds)}"
        )


def cost_of(view: Subject, inputs: Mapping[str, Rows], settings: Settings) -> Cost:
    """Reckon: all statistics and one plain forward are timed on the document of median length."""
    rows = next(iter(inputs.values()))
    documents, tokens = len(rows), sum(map(len, rows))
    one = sorted(rows, key=len)[documents // 2]
    plain = _seconds(lambda: _forward(view, one)) / len(one)
    measured = _seconds(
        lambda: outliers.verdicts(
            view, [one], settings.chosen, replicates=settings.replicates, progress=False
        )
    )
    kinds = [outliers.create(name) for name in settings.chosen]
    wanted = needs(view, kinds, default_sites(view), "gaussian", settings.replicates)
    statistics = memory(view, wanted, documents)
    precisions = max(1, len(settings.precisions))
    once = _once(settings, view, precisions)
    operated = once.pop("operations", 0) * min(settings.operated, documents)
    forwards = len(inputs) * (documents * sum(once.values()) + operated)
    # A document's own part of the statistics is timed together with what every run takes once.
    reading = precisions * (measured * (1 + tokens / len(one)) / 2)
    total = len(inputs) * reading + plain * tokens / documents * forwards
    return Cost(view.name, len(inputs), documents, tokens, forwards, statistics, total)


def _once(settings: Settings, view: Subject, precisions: int) -> dict[str, int]:
    """How often every part reads each document."""
    found = {"verdicts": 3 * precisions, "channels": precisions}
    if not view.config.causal or not view.config.head.present:
        return found
    # Predictions of both, two halves, and texts that are continued token by token.
    free = settings.seeds * settings.new_tokens // 8
    found["precision"] = (precisions - 1) * (4 + 2 * free) if precisions > 1 else 0
    doses = sum(len(ONCE.get(name, (1.0,))) for name in settings.edits)
    found["operations"] = (TARGETS * (settings.draws + 3) * doses + 8) if settings.edits else 0
    return found


def _forward(view: Subject, row: Sequence[int]) -> None:
    with torch.no_grad():
        view.run(Batch.of([list(row)], vocab_size=view.config.vocab_size))


def _seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
