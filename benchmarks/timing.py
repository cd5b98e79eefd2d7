"""Interleaved timing: on a shared machine only neighbours in time can be compared."""

from __future__ import annotations

import gc
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

    def range_of_ratio(self, side: str, to: str) -> tuple[float, float]:
        """The quarter points of the same ratios: how far single rounds lie apart."""
        pairs = zip(self.seconds[side], self.seconds[to], strict=True)
        ratios = [a / b for a, b in pairs]
        if len(ratios) == 1:
            return ratios[0], ratios[0]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, high

    def ratio_of_minima(self, side: str, to: str) -> float:
        """The same of the undisturbed rounds."""
        return self.minimum(side) / self.minimum(to)


def interleave(
    sides: Mapping[str, Work], *, rounds: int, warmup: int = 2, repeat: int = 1
) -> Times:
    """Run every side once a round, in turning order, and time each run alone.

    repeat: that many runs of a side in a row count as one, their time divided by it, where one run
    is too short for the clock.
    """
    for _ in range(warmup):
        for work in sides.values():
            work()
    gc.collect()  # what lives by now is no later collection's business, on whichever side it falls
    gc.freeze()
    try:
        return _rounds(sides, rounds, repeat)
    finally:
        gc.unfreeze()


def _rounds(sides: Mapping[str, Work], rounds: int, repeat: int) -> Times:
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(_once(sides[name], repeat))
    return Times(seconds)


def _once(work: Work, repeat: int) -> float:
    _wait()
    begin = time.perf_counter()
    for _ in range(repeat):
        work()
    _wait()
    return (time.perf_counter() - begin) / repeat


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
