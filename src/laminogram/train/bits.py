"""Bits per byte: the nats a model needs for held-out documents, over ln 2, over their UTF-8 bytes.

Unlike a loss per token it compares models with different tokenizers. Each document is scored on
its own, after one beginning-of-text token that is itself not scored. Documents longer than the
context are read through windows of `context` ids that advance by `stride`: each token is scored
once, the first window scoring all of its targets and later ones their last `stride`.
Axes: B windows, T context, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laminogram.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Document:
    """A held-out text as ids (without the beginning-of-text token) and its size in bytes."""

    name: str
    ids: Sequence[int]
    size: int


@dataclass(frozen=True, kw_only=True)
class BitsPerByte:
    """Sums for one document, or for all: nats, tokens scored, UTF-8 bytes."""

    name: str
    nats: float
    tokens: int
    size: int

    @property
    def value(self) -> float:
        """Bits per byte."""
        return self.nats / math.log(2.0) / self.size

    @property
    def nats_per_token(self) -> float:
        """The mean loss per token, in nats."""
        return self.nats / self.tokens


@dataclass(frozen=True)
class _Window:
    document: int
    ids: Sequence[int]  # inputs and the last target
    scored: int  # how many targets, counted from the end


@torch.no_grad()
def bits_per_byte(
    model: nn.Module,
    documents: Sequence[Document],
    *,
    bos: int,
    context: int,
    stride: int,
    batch: int = 64,
) -> tuple[BitsPerByte, list[BitsPerByte]]:
    """All documents together, and each by itself.

    `model(tokens (B, T)) -> logits (B, T, V)` must be causal. Log-probabilities are taken in fp32
    and summed in fp64. Raises ConfigError unless 1 <= stride <= context.
    """
    if not 1 <= stride <= context:
        raise ConfigError(f"stride {stride} is not between 1 and the context {context}")
    device = next(model.parameters()).device
    nats = torch.zeros(len(documents), dtype=torch.float64, device=device)
    pending: list[_Window] = []
    for window in _windows(documents, bos, context, stride):
        pending.append(window)
        if len(pending) == batch:
            _score(model, pending, context, nats)
            pending = []
    if pending:
        _score(model, pending, context, nats)
    parts = [
        BitsPerByte(name=document.name, nats=value, tokens=len(document.ids), size=document.size)
        for document, value in zip(documents, nats.tolist(), strict=True)
    ]
    whole = BitsPerByte(
        name="all",
        nats=math.fsum(part.nats for part in parts),
        tokens=sum(part.tokens for part in parts),
        size=sum(part.size for part in parts),
    )
    return whole, parts


def _windows(
    documents: Sequence[Document], bos: int, context: int, stride: int
) -> Iterator[_Window]:
    for number, document in enumerate(documents):
        ids = [bos, *document.ids]
        end = min(context, len(ids) - 1)
        yield _Window(number, ids[: end + 1], end)
        while end < len(ids) - 1:
            scored = min(stride, len(ids) - 1 - end)
            end += scored
            yield _Window(number, ids[end - context : end + 1], scored)


def _score(model: nn.Module, windows: Sequence[_Window], context: int, nats: Tensor) -> None:
    """Add the nats of `windows` to their documents' sums; short windows are padded on the right."""
    ids = torch.zeros(len(windows), context + 1, dtype=torch.long)
    mask = torch.zeros(len(windows), context, dtype=torch.bool)
    for row, window in enumerate(windows):
        length = len(window.ids)
        ids[row, :length] = torch.tensor(window.ids)
        mask[row, length - 1 - window.scored : length - 1] = True
    ids, mask = ids.to(nats.device), mask.to(nats.device)
    logits = model(ids[:, :-1])
    losses = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    losses = losses.view(mask.shape).double().masked_fill(~mask, 0.0)
    number = torch.tensor([window.document for window in windows], device=nats.device)
    nats.index_add_(0, number, losses.sum(dim=1))
