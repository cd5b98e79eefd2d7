"""Interleaved timing: on a shared machine only neighbours in time can be compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Seconds of each side, round by round; the same index ran side by side."""

    seconds: dict[str, list[float]]

    def median(self, side: str) -> float:
        return statistics.median(self.seconds[side])

    def minimum(self, side: str) -> float:
        return min(self.seconds[side])

    def ratio(self, side: str, to: str) -> float:
        """The median over the rounds of the time of `side` over that of `to`: below 1, faster."""
        pairs = zip(self.seconds[side], self.seconds[to], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def ratio_of_minima(self, side: str, to: str) -> float:
        """The same of the undisturbed rounds."""
        return self.minimum(side) / self.minimum(to)


def interleave(sides: Mapping[str, Work], *, rounds: int, warmup: int = 2) -> Times:
    """Run every side once a round, in turning order, and time each run alone."""
    for _ in range(warmup):
        for work in sides.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(_once(sides[name]))
    return Times(seconds)


def _once(work: Work) -> float:
    _wait()
    begin = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - begin


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
