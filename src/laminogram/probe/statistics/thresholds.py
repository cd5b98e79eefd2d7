"""How often |x| exceeds given thresholds, per channel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.statistics.base import State, Statistic
from laminogram.probe.statistics.passes import Wanted
from laminogram.probe.statistics.rows import Rows, count_true


class Thresholds(Statistic):
    """Per channel: the number of tokens with |x| > t, strictly, for each threshold t.

    The default holds the 6 of LLM.int8 (Dettmers et al. 2022) and the 100 and 1000 of massive
    activations (Sun et al. 2024). `result()` gives `thresholds` (K,), `above` (K, C) int64,
    `fraction` (K, C) of the tokens counted (NaN where none), `count` and `nonfinite` (C,) int64.

    The comparison is that of real numbers: a threshold is never rounded up to the site's dtype.
    """

    name = "thresholds"

    def __init__(self, thresholds: Sequence[float] = (6.0, 20.0, 100.0, 1000.0)) -> None:
        super().__init__()
        self.thresholds = tuple(float(value) for value in thresholds)
        if not self.thresholds or not all(0 <= t < float("inf") for t in self.thresholds):
            raise ConfigError(
                f"thresholds must be one or more finite numbers from 0 up, not {thresholds!r}"
            )

    def options(self) -> dict[str, Any]:
        """The thresholds."""
        return {"thresholds": list(self.thresholds)}

    def wanted(self) -> Wanted:
        """Counts above the thresholds."""
        return Wanted(tuple(round_down(t, torch.float32) for t in self.thresholds))

    def reduce(self, rows: Rows) -> State:
        """Counts (K, C), (C,), (C,)."""
        count, nonfinite = rows.channel_counts
        state = {"count": count, "nonfinite": nonfinite}
        lows = [round_down(threshold, rows.values.dtype) for threshold in self.thresholds]
        if rows.compiled and set(lows) <= set(rows.summary.thresholds):
            return {"above": rows.summary.above_each(tuple(lows))} | state
        largest = torch.maximum(rows.channel_range[1], rows.channel_range[0].neg())
        above = torch.zeros(len(lows), *count.shape, dtype=torch.int64, device=count.device)
        for index, low in enumerate(lows):
            _count(rows, low, largest, above[index])
        return {"above": above} | state

    def combine(self, a: State, b: State) -> State:
        """Counts add."""
        return {key: a[key] + b[key] for key in a}

    def describe(self, state: State) -> dict[str, np.ndarray]:
        """The arrays of the class's table."""
        count = state["count"].numpy()
        above = state["above"].numpy()
        share = np.where(count > 0, above / np.where(count > 0, count, 1), np.nan)
        return {
            "thresholds": np.asarray(self.thresholds),
            "above": above,
            "fraction": share,
            "count": count,
            "nonfinite": state["nonfinite"].numpy(),
        }


@cache
def round_down(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of a dtype that is not above the threshold.

    For x of that dtype, x > t exactly when x > this number.
    """
    if dtype == torch.float64:
        return threshold
    with np.errstate(over="ignore"):  # a threshold beyond float32 becomes its largest number
        nearest = np.float32(threshold)
    if float(nearest) > threshold:
        nearest = np.nextafter(nearest, np.float32(-np.inf))
    return float(nearest)


def _count(rows: Rows, threshold: float, largest: Tensor, out: Tensor) -> None:
    """Add to `out` (C,) the rows with |x| above the threshold."""
    values = rows.clean
    if values.device.type != "cpu":
        out += count_true(values.abs() > threshold, 0)
        return
    # Few channels pass a high threshold anywhere; the others need no second look.
    channels = (largest > threshold).nonzero().flatten()
    if 4 * len(channels) > values.shape[1]:
        out += count_true(values.abs() > threshold, 0)
    elif len(channels):
        out[channels] += count_true(values[:, channels].abs() > threshold, 0)
