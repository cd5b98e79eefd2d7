"""How often |x| reaches a threshold, per channel, by tokens and by documents, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.statistics.base import State
from laminogram.probe.statistics.bootstrap import Resampled
from laminogram.probe.statistics.rows import Rows
from laminogram.probe.statistics.thresholds import round_down


class Exceedances(Resampled):
    """Per channel and variant: tokens, and documents, in which |x| >= threshold.

    The default is the 6 of LLM.int8 (Dettmers et al. 2022). `result()` gives `threshold`; `above`
    and `documents_above` (P, C), `tokens` and `documents` (P,), int64; `nonfinite` (C,). A document
    in two parts counts as two in `documents_above` and `documents`.

    The comparison is that of real numbers: a threshold is never rounded to the site's dtype.
    Memory: 8 bytes a channel and variant.
    """

    name = "exceedances"

    def __init__(self, threshold: float = 6.0, replicates: int = 64) -> None:
        super().__init__(replicates)
        self.threshold = float(threshold)
        if not 0 <= self.threshold < float("inf"):
            raise ConfigError(f"a threshold must be a finite number from 0 up, not {threshold!r}")

    def options(self) -> dict[str, Any]:
        """The threshold and the number of replicates."""
        return {"threshold": self.threshold} | super().options()

    def reduce(self, rows: Rows) -> State:
        """Counts of each document, then of each variant."""
        ids, index = rows.groups
        groups, channels = len(ids), rows.values.shape[1]
        counts = torch.zeros(groups + 1, channels, dtype=torch.int32, device=ids.device)
        for part in rows.slices():
            counts.index_add_(0, index[part], self._reached(rows, part).int())
        weights = self.weights(rows)
        tokens = self.tokens(rows)
        found = counts[:-1].to(torch.float64)
        return {
            "above": (weights @ found).int(),
            "documents_above": (weights @ (found > 0).double()).int(),
            "tokens": (weights @ tokens).long(),
            "documents": (weights @ (tokens > 0).double()).long(),
            "nonfinite": rows.channel_counts[1],
        }

    def _reached(self, rows: Rows, part: slice) -> Tensor:
        values = rows.clean[part]
        low = round_down(self.threshold, values.dtype)
        reached = values.abs() >= low if low == self.threshold else values.abs() > low
        if self.threshold == 0 and rows.valid is not None:
            reached &= rows.valid[part]  # the 0 in place of what does not count would reach it
        return reached

    def combine(self, a: State, b: State) -> State:
        """Counts add."""
        return {key: a[key] + b[key] for key in a}

    def describe(self, state: State) -> dict[str, np.ndarray]:
        """The arrays of the class's table."""
        table = {key: value.long().numpy() for key, value in state.items()}
        return table | {"threshold": np.asarray(self.threshold)}
