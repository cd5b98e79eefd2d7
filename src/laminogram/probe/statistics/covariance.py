"""The second moments of channels together: how a site's energy lies, whatever the axes are called.

Axes: H the variants "all" and two halves of the documents, D directions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.statistics.base import State
from laminogram.probe.statistics.bootstrap import Resampled
from laminogram.probe.statistics.rows import Rows

_SEED = 20250321  # of the projection: one for all, or sketches could not be merged


class Covariance(Resampled):
    """The covariance of the channels over tokens: exact for narrow sites, a sketch for wide ones.

    Up to `exact` channels it is D = C wide. Beyond, rows are first multiplied with a fixed Gaussian
    matrix (C, `sketch`) of entries N(0, 1 / sketch), which keeps energies in the mean: a spectrum
    read from it carries a relative standard error of about sqrt(2 / sketch), 9 per cent at 256.

    `result()` gives `tokens` (3,) and `eigenvalues` (3, D), largest first, for all documents and
    for the two halves; `sketched`, the width of the sketch or 0; and `nonfinite` (C,). There are no
    replicates, as each would be a matrix: the halves say how much a number varies. A value that is
    not finite counts as 0.

    Memory: 16 D**2 bytes.
    """

    name = "covariance"

    def __init__(self, exact: int = 512, sketch: int = 256) -> None:
        super().__init__(replicates=0)
        if exact < 1 or sketch < 2:
            raise ConfigError(f"exact must be at least 1 and sketch 2, not {exact} and {sketch}")
        self.exact, self.sketch = int(exact), int(sketch)

    def options(self) -> dict[str, Any]:
        """The widest site that is exact, and the width of the sketch of wider ones."""
        return {"exact": self.exact, "sketch": self.sketch}

    def reduce(self, rows: Rows) -> State:
        """Sums about the batch's mean, of each half."""
        ids, index = rows.groups
        halves = torch.nn.functional.pad(self.weights(rows)[1:3], (0, 1))[:, index]
        channels = rows.values.shape[1]
        wide = channels > self.exact
        directions = self.sketch if wide else channels
        tokens = halves.sum(1)
        share = (halves.sum(0) / tokens.sum().clamp(min=1)).to(rows.values.dtype)
        center = (share @ rows.clean).to(torch.float64)  # near the mean is enough
        s1 = torch.zeros(2, directions, dtype=torch.float64, device=ids.device)
        s2 = torch.zeros(2, directions, directions, dtype=torch.float64, device=ids.device)
        matrix = projection(channels, self.sketch, ids.device) if wide else None
        for part, x, _ in rows.chunks():
            x.copy_(rows.clean[part]).sub_(center)
            seen = x if matrix is None else x @ matrix
            for half in (0, 1):
                weighted = seen * halves[half, part, None]
                s1[half] += weighted.sum(0)
                s2[half].addmm_(weighted.T, seen)
        middle = center if matrix is None else center @ matrix
        nonfinite = rows.channel_counts[1]
        return {"tokens": tokens, "center": middle, "s1": s1, "s2": s2, "nonfinite": nonfinite}

    def combine(self, a: State, b: State) -> State:
        """Sums about the center of the first."""
        gap, tokens = b["center"] - a["center"], b["tokens"]
        cross = gap[None, :, None] * b["s1"][:, None, :]
        squares = tokens[:, None, None] * (gap[:, None] * gap)
        return {
            "tokens": a["tokens"] + tokens,
            "center": a["center"],
            "s1": a["s1"] + b["s1"] + tokens[:, None] * gap,
            "s2": a["s2"] + b["s2"] + cross + cross.transpose(1, 2) + squares,
            "nonfinite": a["nonfinite"] + b["nonfinite"],
        }

    def describe(self, state: State) -> dict[str, np.ndarray]:
        """The arrays of the class's table."""
        tokens, s1, s2 = (
            torch.cat([state[key].sum(0, keepdim=True), state[key]])
            for key in ("tokens", "s1", "s2")
        )
        spectra = [_spectrum(n, first, second) for n, first, second in zip(tokens, s1, s2)]
        channels = len(state["nonfinite"])
        return {
            "tokens": tokens.numpy(),
            "eigenvalues": np.stack(spectra),
            "sketched": np.asarray(self.sketch if channels > self.exact else 0),
            "nonfinite": state["nonfinite"].numpy(),
        }


@lru_cache(maxsize=4)
def projection(channels: int, sketch: int, device: torch.device) -> Tensor:
    """The fixed Gaussian matrix (channels, sketch) of wide sites, float64."""
    generator = torch.Generator().manual_seed(_SEED)
    drawn = torch.randn(channels, sketch, generator=generator, dtype=torch.float64)
    return (drawn / sketch**0.5).to(device)


def _spectrum(tokens: Tensor, s1: Tensor, s2: Tensor) -> np.ndarray:
    if not tokens > 0:
        return np.full(len(s1), np.nan)
    mean = s1 / tokens
    values = torch.linalg.eigvalsh(s2 / tokens - mean[:, None] * mean)
    return values.clamp(min=0).flip(0).numpy()
