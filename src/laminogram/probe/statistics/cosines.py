"""What every channel adds to the cosine between tokens, with intervals."""

from __future__ import annotations

import numpy as np
import torch

from laminogram.probe.statistics.base import State
from laminogram.probe.statistics.bootstrap import Resampled
from laminogram.probe.statistics.rows import Rows


class Cosines(Resampled):
    """Per channel and variant: the mean over pairs of tokens of u_i v_i / (|u| |v|).

    Its sum over channels is the mean cosine, the anisotropy. Timkey and van Schijndel (2021) draw
    500 000 pairs; here all pairs of different tokens are taken, since with sums of unit vectors
    they cost no more than the tokens. `result()` gives `tokens` (P,) and `contribution` (P, C), NaN
    below two tokens, and `nonfinite` (C,). A token of norm 0 has no direction and adds 0;
    so does a value that is not finite.

    A replicate pairs a token with its own copies; of n tokens that adds about 1 / n.
    Memory: 16 bytes a channel and variant.
    """

    name = "cosines"

    def reduce(self, rows: Rows) -> State:
        """Sums of unit vectors and of their squares."""
        ids, index = rows.groups
        channels = rows.values.shape[1]
        sums = torch.zeros(2, len(ids) + 1, channels, dtype=torch.float64, device=ids.device)
        for part, unit, square in rows.chunks():
            unit.copy_(rows.clean[part])
            norm = unit.norm(dim=1, keepdim=True)
            unit.div_(torch.where(norm > 0, norm, 1.0))
            sums[0].index_add_(0, index[part], unit)
            sums[1].index_add_(0, index[part], torch.mul(unit, unit, out=square))
        weights = self.weights(rows)
        return {
            "tokens": weights @ self.tokens(rows),
            "units": weights @ sums[0, :-1],
            "squares": weights @ sums[1, :-1],
            "nonfinite": rows.channel_counts[1],
        }

    def combine(self, a: State, b: State) -> State:
        """Sums add."""
        return {key: a[key] + b[key] for key in a}

    def describe(self, state: State) -> dict[str, np.ndarray]:
        """The arrays of the class's table."""
        table = {key: value.numpy() for key, value in state.items()}
        tokens = table["tokens"]
        pairs = np.where(tokens > 1, tokens * (tokens - 1), np.nan)[:, None]
        return {
            "tokens": tokens,
            "contribution": (table["units"] ** 2 - table["squares"]) / pairs,
            "nonfinite": table["nonfinite"],
        }
