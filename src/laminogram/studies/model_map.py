"""The model map: every part of a stack with its parameters and bytes, and statistics by layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PartRow:
    """One part: kind is `embedding`, `attn`, `ffn`, `norms` or `head`, as in the model's card.

    label: the layer's number, or "embedding", "final norm", "head"; name: what it is ("attention",
    "RWKV-7 time mix", "gated MLP", ...); shape: its tensors as text; layer: None outside of layers.
    """

    label: str
    kind: str
    name: str
    parameters: int
    bytes: int
    shape: str
    layer: int | None = None


@dataclass(frozen=True, eq=False)
class ModelMap:
    """parts: in the order of the forward; labels: one a layer; statistics: name -> (layers,) f64,
    NaN where the plan does not run the layer. steps: for each layer the steps that run it."""

    model: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    labels: tuple[str, ...]
    parts: tuple[PartRow, ...]
    steps: tuple[tuple[int, ...], ...]
    statistics: dict[str, np.ndarray]
    meanings: dict[str, str] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
