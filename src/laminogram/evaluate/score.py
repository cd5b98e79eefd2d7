"""One vector or a few numbers for each text: embeddings, rewards, classes.

Axes: B texts, T tokens, C channels.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.subject import Subject, Text

Pooling = Literal["mean", "first", "last", "pooler"]


def scores(view: Subject, x: Text) -> Tensor:
    """What the score head says of each text (B, labels), in fp32 or wider.

    A reward head reads each text's last real token, a classifier of an encoder its first, whatever
    side was padded. Gradients flow (for `torch.no_grad()` say so). ConfigError where the model has
    no such head.
    """
    config = view.config.score
    if config is None:
        raise ConfigError(
            f"{view.name} has no score head; laminogram.train.add_score_head gives it one"
        )
    pooling: Pooling = "pooler" if config.through == "pooler" else config.token
    return _wide(view.stack.score(_pooled(view, x, pooling)))


def embeddings(
    view: Subject, x: Text, pooling: Pooling = "mean", *, unit_length: bool = False
) -> Tensor:
    """One vector for each text (B, C) out of what enters the head, in fp32 or wider.

    pooling: the mean over real tokens, the first or the last of them, or the model's own pooler
    (an encoder's first token through a square product and tanh). unit_length: divided by its
    length. ConfigError for a pooling that does not exist or that the model lacks.
    """
    if pooling not in get_args(Pooling):
        raise ConfigError(f"pooling is {pooling!r}; there are {', '.join(get_args(Pooling))}")
    if pooling == "pooler" and not view.config.head.pooler:
        raise ConfigError(f"{view.name} has no pooler; there are mean, first, last")
    found = _wide(_pooled(view, x, pooling))
    return torch.nn.functional.normalize(found, dim=-1) if unit_length else found


def _pooled(view: Subject, x: Text, pooling: Pooling) -> Tensor:
    batch = view.tokens(x)
    final = view.run(batch, logits="none")
    if pooling == "mean":
        mask = batch.mask.to(final.device)[..., None]
        total = _wide(final).masked_fill(~mask, 0).sum(1)
        return total / mask.sum(1)
    if pooling == "last":
        last = torch.tensor(batch.lengths, device=final.device) - 1
        return final[torch.arange(len(batch.lengths), device=final.device), last]
    first = final[:, 0]
    return torch.tanh(view.stack.pooler(first)) if pooling == "pooler" else first


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
