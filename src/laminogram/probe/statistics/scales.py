"""Largest and mean size of every channel, with intervals: what activation scales are made of."""

from __future__ import annotations

import numpy as np
import torch

from laminogram.probe.statistics.base import State
from laminogram.probe.statistics.bootstrap import Resampled
from laminogram.probe.statistics.rows import Rows


class Scales(Resampled):
    """Per channel and variant: max |x| and mean |x| over the tokens.

    `result()` gives `tokens` (P,), `absmax` and `mean_abs` (P, C) float64, NaN where nothing was
    counted, and `nonfinite` (C,) int64. The interval of a maximum only reaches down: no replicate
    exceeds what was seen.

    Memory: 20 bytes a channel and variant.
    """

    name = "scales"

    def reduce(self, rows: Rows) -> State:
        """Of each document, then of each variant."""
        ids, index = rows.groups
        groups, channels = len(ids), rows.values.shape[1]
        sums = torch.zeros(groups + 1, channels, dtype=torch.float64, device=ids.device)
        largest = torch.zeros_like(sums)
        for part, size, _ in rows.chunks():
            size.copy_(rows.clean[part]).abs_()
            place = index[part]
            sums.index_add_(0, place, size)
            largest.scatter_reduce_(0, place[:, None].expand(size.shape), size, "amax")
        weights = self.weights(rows)
        absmax = torch.zeros(len(weights), channels, dtype=torch.float64, device=ids.device)
        for document in range(groups):
            there = (weights[:, document] > 0)[:, None]
            absmax = torch.where(there, torch.maximum(absmax, largest[document]), absmax)
        return {
            "tokens": weights @ self.tokens(rows),
            "count": self.counted(rows),
            "absmax": absmax,
            "sum_abs": weights @ sums[:-1],
            "nonfinite": rows.channel_counts[1],
        }

    def combine(self, a: State, b: State) -> State:
        """Maxima of maxima; the rest adds."""
        absmax = torch.maximum(a["absmax"], b["absmax"])
        return {key: a[key] + b[key] for key in a} | {"absmax": absmax}

    def describe(self, state: State) -> dict[str, np.ndarray]:
        """The arrays of the class's table."""
        table = {key: value.numpy() for key, value in state.items()}
        per = np.where(table["count"] > 0, table["count"], np.nan)
        return {
            "tokens": table["tokens"],
            "absmax": np.where(np.isnan(per), np.nan, table["absmax"]),
            "mean_abs": table["sum_abs"] / per,
            "nonfinite": table["nonfinite"],
        }
