"""From logits to the next token of each row.

The order is that of Hugging Face transformers: repetition penalty, temperature, top-k, top-p. A
draw is a function of (seed, row, position) alone, so a row's text depends neither on the other rows
of its batch, nor on the device, nor on whether the text was made in one go.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laminogram.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    temperature: 0 takes the likeliest token; top_k: draw from the K likeliest; top_p: from the
    likeliest that together have this probability; repetition_penalty: above 1 makes tokens less
    likely that occur in the row; seed: the same seed gives the same text. ConfigError for values
    out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature is {self.temperature}; it must be 0 or more")
        if self.top_k is not None and (self.top_k < 1 or self.top_k != int(self.top_k)):
            raise ConfigError(f"top_k is {self.top_k}; it must be a whole number from 1 on")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ConfigError(
                f"repetition_penalty is {self.repetition_penalty}; it must be above 0"
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken every time."""
        return self.temperature == 0

    @property
    def needs_history(self) -> bool:
        """Whether the tokens so far play a part."""
        return self.repetition_penalty != 1


def uniforms(seed: int, places: Iterable[tuple[int, int]]) -> Tensor:
    """One number in [0, 1) for each (row, position), (B,) fp64 on the CPU.

    Taken from a hash rather than a generator: no state, so that a text can be continued anywhere.
    """
    drawn = []
    for row, position in places:
        digest = hashlib.blake2b(f"{seed}/{row}/{position}".encode(), digest_size=8).digest()
        drawn.append((int.from_bytes(digest, "little") >> 11) * 2.0**-53)
    return torch.tensor(drawn, dtype=torch.float64)


def history_mask(rows: Sequence[Sequence[int]], vocab_size: int, device: torch.device) -> Tensor:
    """Which tokens occur in each row: (B, V) bool."""
    mask = torch.zeros(len(rows), vocab_size, dtype=torch.bool)
    for row, tokens in zip(mask, rows, strict=True):
        row[torch.tensor(list(tokens), dtype=torch.long)] = True
    return mask.to(device)


def choose(
    logits: Tensor, history: Tensor | None, sampling: Sampling, drawn: Tensor | None = None
) -> Tensor:
    """The next token (B,) from logits (B, V), on their device and without waiting for it.

    history: (B, V) of `history_mask`, used by the repetition penalty alone; drawn: (B,) of
    `uniforms`, not needed where greedy. A draw inverts the cumulative distribution in fp64, tokens
    in the order of their ids.
    """
    if sampling.greedy and not sampling.needs_history:
        return largest(logits)
    scores = processed(logits, history, sampling)
    if sampling.greedy:
        return scores.argmax(-1)
    if drawn is None:
        raise ConfigError("drawing with a temperature needs one uniform number for each row")
    weights = scores.double().softmax(-1).cumsum(-1)
    # Scaled by the sum, since rounding may leave it a little off 1; `last` catches a product that
    # is rounded up to the sum itself.
    aim = drawn.to(weights.device)[:, None] * weights[:, -1:]
    index = torch.searchsorted(weights, aim, right=True)
    last = (scores != float("-inf")).long().cumsum(-1).argmax(-1, keepdim=True)
    return torch.minimum(index, last)[:, 0]


def largest(logits: Tensor) -> Tensor:
    """The token (B,) of the largest logit (B, V)."""
    # On a CPU torch looks through 16 bits four times as slowly as through the same numbers in fp32;
    # elsewhere those are twice the memory.
    return (logits.float() if logits.is_cpu and logits.itemsize == 2 else logits).argmax(-1)


def processed(logits: Tensor, history: Tensor | None, sampling: Sampling) -> Tensor:
    """The scores (B, V) that are drawn from, in fp32 or wider; -inf where a token is excluded."""
    scores = logits if logits.dtype == torch.float64 else logits.float()
    if sampling.needs_history and history is not None:
        penalty = sampling.repetition_penalty
        scores = torch.where(
            history, torch.where(scores < 0, scores * penalty, scores / penalty), scores
        )
    if sampling.greedy:
        return scores
    scores = scores / sampling.temperature
    if sampling.top_k is not None:
        kept = min(sampling.top_k, scores.shape[-1])
        lowest = scores.topk(kept, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < lowest, float("-inf"))
    if sampling.top_p is not None and sampling.top_p < 1:
        scores = _nucleus(scores, sampling.top_p)
    return scores


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Without the least likely tokens that together have at most `1 - top_p`; one always stays."""
    ranked, order = scores.sort(dim=-1, stable=True)
    below = ranked.softmax(-1).cumsum(-1) <= 1 - top_p
    below[:, -1] = False
    excluded = torch.zeros_like(below).scatter(-1, order, below)
    return scores.masked_fill(excluded, float("-inf"))
