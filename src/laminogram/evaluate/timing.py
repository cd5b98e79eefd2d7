"""Wall time a token of a plan, beside its score."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from laminogram.probe.subject import Subject
from laminogram.stack.batch import Batch

TOKENS = 128
"""Tokens of the forward that is timed."""
TIMES = 3
ENOUGH = 1.0
"""Seconds after which no further forward is timed: noise is small beside a long one."""


class Seconds:
    """Seconds a token of each plan, measured once: a sweep shares work, so it cannot tell."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    @torch.no_grad()
    def of(self, view: Subject) -> float:
        """The fastest of up to `TIMES` forwards of one row under this plan alone, divided by its
        tokens.

        Without edits: their places need not be in the row that is timed.
        """
        view = replace(view, edits=())
        text = view.conditions
        if text not in self._known:
            tokens = min(TOKENS, view.config.max_position_embeddings or TOKENS)
            batch = view.tokens(torch.arange(tokens)[None] % view.config.vocab_size)
            if not self._known:
                _once(view, batch)  # imports and compiles what every later forward finds ready
            spent: list[float] = []
            while len(spent) < TIMES and sum(spent) < ENOUGH:
                spent.append(_once(view, batch))
            self._known[text] = min(spent) / tokens
        return self._known[text]


def _once(view: Subject, batch: Batch) -> float:
    begin = time.perf_counter()
    view.run(batch, logits="last").sum().item()  # an item waits for a device
    return time.perf_counter() - begin
