"""The next token, and how well each token of a text was predicted.

Axes: T tokens, K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class NextToken:
    """loss (T-1,) f32: nats of token t + 1 given those before it, empty for one token. ids (K,),
    texts and probability (K,) f32: the likeliest tokens after the last, likeliest first, at
    `temperature` (1: as the model says; losses are always at 1). entropy: of that distribution over
    the whole vocabulary, in nats. labels: the tokens, told apart by position."""

    model: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    labels: tuple[str, ...]
    loss: np.ndarray
    ids: np.ndarray
    texts: tuple[str, ...]
    probability: np.ndarray
    entropy: float
    temperature: float
    manifest: dict[str, Any] = field(default_factory=dict)
