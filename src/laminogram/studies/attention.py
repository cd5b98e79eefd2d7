"""Attention maps: who reads whom, head by head, of chosen layers.

Axes: R rows (steps that have a pattern), H heads, T tokens, t cells of the map.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAP_CELLS = 128
"""Longer texts are pooled to at most so many cells a side."""


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """pattern (R, H, t, t) f32: query down, key across; labels, steps, layers: of each row.

    t is the number of tokens where `pooled` is 1. Else each cell is the weight largest in size of
    `pooled` x `pooled` tokens (the last cells hold fewer), and rows no longer sum to 1. normalised:
    rows of the unpooled pattern sum to 1. meaning: what a weight is here. note: what to beware of,
    empty where nothing. causal: nothing stands above the diagonal.
    """

    model: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    labels: tuple[str, ...]
    steps: tuple[int, ...]
    layers: tuple[int, ...]
    pattern: np.ndarray
    pooled: int
    normalised: bool
    causal: bool
    meaning: str
    note: str
    manifest: dict[str, Any] = field(default_factory=dict)
