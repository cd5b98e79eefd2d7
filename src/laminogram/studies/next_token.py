"""The next token, and how well each token of a text was predicted.

Axes: T tokens, K candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from laminogram.errors import ConfigError, FamilyError
from laminogram.evaluate.loss import loss
from laminogram.probe.subject import Subject, Text
from laminogram.studies.reading import (
    Tables,
    about,
    ids_of,
    names_of,
    read_one,
    told_apart,
    wide,
)


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

    def tables(self) -> Tables:
        """`loss`: a row for each token, the first without one; `next`: one for each candidate."""
        return {
            "loss": {
                "token": np.arange(len(self.tokens)),
                "id": np.array(self.token_ids),
                "text": list(self.tokens),
                "loss_nats": np.concatenate(([np.nan], self.loss)).astype(np.float32),
            },
            "next": {
                "rank": np.arange(1, len(self.ids) + 1),
                "id": self.ids,
                "text": list(self.texts),
                "probability": self.probability,
            },
        }


def next_token(view: Subject, text: Text, top: int = 20, temperature: float = 1.0) -> NextToken:
    """How a text was predicted, and what may follow it; `top` is cut to the vocabulary.

    FamilyError for an encoder or without a head, TokenError for several texts, ConfigError for a
    text beyond the context, a `top` below 1 or a temperature that is not above 0.
    """
    _check(view, top, temperature)
    batch = read_one(view, text)
    with torch.no_grad():
        scores = wide(view.run(batch, logits="last")[0, -1]) / temperature
    log_p = scores.log_softmax(-1)
    likely = log_p.topk(min(top, view.config.vocab_size))
    known = log_p > -torch.inf
    ids, found = ids_of(batch), likely.indices.cpu().numpy()
    tokens = names_of(view, ids)
    losses = loss(view, batch).per_token[0] if len(ids) > 1 else torch.zeros(0)
    return NextToken(
        model=view.name,
        tokens=tokens,
        token_ids=ids,
        labels=told_apart(tokens),
        loss=losses[: len(ids) - 1].float().cpu().numpy(),
        ids=found,
        texts=_named(names_of(view, found.tolist()), found),
        probability=likely.values.exp().float().cpu().numpy(),
        entropy=float(-(log_p.exp() * log_p)[known].sum()),
        temperature=temperature,
        manifest=about(view, "next", [batch], top=top, temperature=temperature),
    )


def _check(view: Subject, top: int, temperature: float) -> None:
    if not view.config.causal:
        raise FamilyError(
            f"{view.name} ({view.config.family}) is an encoder: it predicts no next token; the "
            "lens shows what it says at each position"
        )
    if not view.config.head.present:
        raise FamilyError(f"{view.name} has no language-model head, so it says no token")
    if top < 1:
        raise ConfigError(f"top is {top}; it must be at least 1")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ConfigError(f"temperature is {temperature}; it must be above 0")


def _named(texts: tuple[str, ...], ids: np.ndarray) -> tuple[str, ...]:
    """Texts, with the id where two candidates read the same."""
    return tuple(
        text if texts.count(text) == 1 else f"{text} #{one}"
        for text, one in zip(texts, ids.tolist(), strict=True)
    )
