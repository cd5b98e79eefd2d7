"""Similarity of states, layer by layer, and the groups that they fall into.

Axes: R states, T tokens, C channels, N tokens of all texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Similarity:
    """Matrices (R, R) f64 between the inputs of each step and the output of the last.

    flattened: each text's state as one vector of T*C, cosine, mean over texts. per_token: cosine of
    each token's state, mean over all tokens. without_first: the same without each text's first
    token (None where no text has a second). cka: linear centred kernel alignment over
    `cka_tokens` tokens. groups: (name, first, last), inclusive state numbers, empty where there are
    too few states; groups_rule says how they were found. tokens and token_ids are those of the
    first text; `texts` and `count` tell how many texts and tokens were read.
    """

    model: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    labels: tuple[str, ...]
    flattened: np.ndarray
    per_token: np.ndarray
    without_first: np.ndarray | None
    cka: np.ndarray
    groups: tuple[tuple[str, int, int], ...]
    groups_rule: str
    texts: int
    count: int
    cka_tokens: int
    sources: dict[str, str] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
