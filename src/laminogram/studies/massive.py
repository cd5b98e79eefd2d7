"""Massive activations: the few values that are thousands of times the median.

Axes: R rows (steps), T tokens, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

SURFACE_CHANNELS = 512
THRESHOLD, RATIO = 100.0, 1000.0


@dataclass(frozen=True, eq=False)
class Massive:
    """The largest values of each row, and one row's surface.

    top (R, 3) f32: largest |x|, descending; places (R, 3, 2): their token and channel; values
    (R, 3) f32: with their sign. median (R,) f32: of |x| over the row's whole state, T x C, as Sun
    et al. 2024 define it; token_median (R,) f32: of |x| over the channels of the token that holds
    the largest value, which other tools use and which can differ by orders of magnitude. massive
    (R,) bool: top-1 above 100 and at least 1000 times `median`. nonfinite (R,): values left out.

    surface (T, C') f32: row `surface_row` with sign, each column the value largest in size of
    `pooled` neighbouring channels; 1 where every channel stands.
    """

    model: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    labels: tuple[str, ...]
    site: str
    top: np.ndarray
    values: np.ndarray
    places: np.ndarray
    median: np.ndarray
    token_median: np.ndarray
    massive: np.ndarray
    nonfinite: np.ndarray
    surface: np.ndarray
    surface_row: int
    channels: int
    pooled: int
    manifest: dict[str, Any] = field(default_factory=dict)
