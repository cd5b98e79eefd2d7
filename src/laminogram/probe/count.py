"""What a model will need, from its configuration alone: before any weight is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from laminogram.checkpoint.configuration import configuration
from laminogram.plans.cost import Cost, cost, scaled
from laminogram.probe.card import Card, make_card
from laminogram.probe.subject import precision_dtype
from laminogram.stack.flops import DEFAULT_CONTEXT, figures
from laminogram.stack.stack import Stack


@dataclass(frozen=True)
class Count:
    """A model's card (parameters, memory, cache and state) and what a token costs; prints well."""

    card: Card
    cost: Cost

    @property
    def flops(self) -> int:
        """Floating-point operations for one token with `context` in view, the two ends included."""
        return self.cost.flops or 0

    @property
    def context(self) -> int:
        """How many tokens attention looks at in `flops`."""
        return self.cost.context or 0

    def __str__(self) -> str:
        return f"{self.card}\n  one token: {scaled(self.flops, 'FLOPs')}, {self.context} in view"


def count(
    source: str | Path | Mapping[str, Any],
    *,
    precision: str | torch.dtype = torch.bfloat16,
    context: int = DEFAULT_CONTEXT,
) -> Count:
    """Parameters by part, memory by precision, cache or state, and FLOPs a token.

    source: a config.json or its contents, a directory, a weight file, a bundled name, or a hub id
    (only its config.json is downloaded). precision: that of the cache and of the weights in it.
    context: how many tokens attention looks at, no more than the model learned positions for.
    CheckpointError, FamilyError or ConfigError say what is wrong with the configuration.
    """
    config, name = configuration(source)
    context = min(context, config.embedding.positions or context)
    with torch.device("meta"):
        stack = Stack(config, device="meta", dtype=precision_dtype(precision))
        plan = stack.full_plan()
        card = make_card(stack, plan, name, tokenizer=False)
        return Count(card, cost(plan, figures(stack, context)))
