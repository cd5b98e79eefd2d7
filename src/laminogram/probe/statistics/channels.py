"""Mean and energy of every channel, with intervals.

Axes: P variants (see `bootstrap`), B documents of a batch, C channels, N rows.
"""

from __future__ import annotations

import numpy as np
import torch

from laminogram.probe.statistics.base import State
from laminogram.probe.statistics.bootstrap import Resampled
from laminogram.probe.statistics.moments import centred
from laminogram.probe.statistics.rows import Rows


class Channels(Resampled):
    """Per channel and variant: mean, variance and mean square over the tokens.

    `result()` gives `tokens` (P,), `mean`, `variance`, `energy` (P, C) float64, NaN where nothing
    was counted, and `nonfinite` (C,) int64. Sums are of distances from a center near the mean, so
    that a large mean costs no digits.

    Memory: 20 bytes a channel and variant; 5.5 MB for 4096 channels and 64 replicates.
    """

    name = "channels"

    def reduce(self, rows: Rows) -> State:
        """Sums of each document, then of each variant."""
        ids, index = rows.groups
        counted, nonfinite = rows.channel_counts
        values, center = centred(rows, counted.clamp(min=1).to(torch.float64))
        sums = torch.zeros(2, len(ids) + 1, len(center), dtype=torch.float64, device=ids.device)
        for part, distance, square in rows.chunks():
            distance.copy_(values[part]).sub_(center)
            sums[0].index_add_(0, index[part], distance)
            sums[1].index_add_(0, index[part], torch.mul(distance, distance, out=square))
        weights = self.weights(rows)
        return {
            "tokens": weights @ self.tokens(rows),
            "count": self.counted(rows),
            "center": center,
            "s1": weights @ sums[0, :-1],
            "s2": weights @ sums[1, :-1],
            "nonfinite": nonfinite,
        }

    def combine(self, a: State, b: State) -> State:
        """Sums about the center of the first."""
        gap, count = b["center"] - a["center"], b["count"]
        return {
            "tokens": a["tokens"] + b["tokens"],
            "count": a["count"] + count,
            "center": a["center"],
            "s1": a["s1"] + b["s1"] + count * gap,
            "s2": a["s2"] + b["s2"] + 2 * gap * b["s1"] + count * gap**2,
            "nonfinite": a["nonfinite"] + b["nonfinite"],
        }

    def describe(self, state: State) -> dict[str, np.ndarray]:
        """The arrays of the class's table."""
        table = {key: value.numpy() for key, value in state.items()}
        per = np.where(table["count"] > 0, table["count"], np.nan)
        away = table["s1"] / per
        mean = table["center"] + away
        variance = np.maximum(table["s2"] / per - away**2, 0.0)
        return {
            "tokens": table["tokens"],
            "mean": mean,
            "variance": variance,
            "energy": variance + mean**2,
            "nonfinite": table["nonfinite"],
        }
