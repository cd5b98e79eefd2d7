"""How well a model answers: the share of prompts whose whole answer it writes, and the loss on it.

The greedy text equals the answer exactly where every token of the answer is the likeliest one after
those before it, so one forward pass decides it and nothing is generated.
Axes: B questions, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt and its answer as ids, neither empty; it counts in the results of all its kinds."""

    prompt: Sequence[int]
    answer: Sequence[int]
    kinds: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Sums over questions: how many, how many answered exactly, nats and tokens of the answers."""

    questions: int
    exact: int
    nats: float
    tokens: int

    @property
    def accuracy(self) -> float:
        """The share of questions whose whole answer is the model's greedy text."""
        return self.exact / self.questions

    @property
    def nats_per_token(self) -> float:
        """The mean loss on a token of an answer, in nats."""
        return self.nats / self.tokens


@torch.no_grad()
def answered(
    model: nn.Module, questions: Sequence[Question], *, bos: int, batch: int = 256
) -> dict[str, Answered]:
    """The result of each kind of question, in the order of their names.

    Each prompt stands alone after one beginning-of-text token. `model(tokens (B, T)) -> logits
    (B, T, V)` must be causal, since pads to the right of a short question are then never seen.
    """
    device = next(model.parameters()).device
    rows: dict[str, list[tuple[bool, float, int]]] = {}
    for begin in range(0, len(questions), batch):
        part = questions[begin : begin + batch]
        exact, nats = (x.tolist() for x in _score(model, part, bos, device))
        for question, right, loss in zip(part, exact, nats, strict=True):
            for kind in question.kinds:
                rows.setdefault(kind, []).append((right, loss, len(question.answer)))
    return {kind: _sum(rows[kind]) for kind in sorted(rows)}


def _sum(rows: Sequence[tuple[bool, float, int]]) -> Answered:
    return Answered(
        questions=len(rows),
        exact=sum(right for right, _, _ in rows),
        nats=sum(nats for _, nats, _ in rows),
        tokens=sum(tokens for _, _, tokens in rows),
    )


def _score(
    model: nn.Module, questions: Sequence[Question], bos: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Whether each answer is exact (B,), and its nats (B,)."""
    texts = [[bos, *question.prompt, *question.answer] for question in questions]
    longest = max(map(len, texts))
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    mask = torch.zeros(len(texts), longest - 1, dtype=torch.bool)
    for row, (text, question) in enumerate(zip(texts, questions, strict=True)):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, len(text) - 1 - len(question.answer) : len(text) - 1] = True
    ids, mask = ids.to(device), mask.to(device)
    logits, targets = model(ids[:, :-1]).float(), ids[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    exact = ((logits.argmax(-1) == targets) | ~mask).all(dim=1)
    return exact, losses.view(mask.shape).double().masked_fill(~mask, 0.0).sum(dim=1)
