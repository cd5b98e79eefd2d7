"""How well a plan does on texts: a scorer for models that predict, one for those that only read.

A scorer makes its batches once. What it finds are sums, a row for each input of a batch, so that
they can be kept, joined and resampled in any order.

Axes: B rows, T tokens, N scored tokens of a batch, C channels, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from laminogram.evaluate.divergence import kl, same_likeliest
from laminogram.evaluate.loss import CHUNK, needs_all_logits
from laminogram.plans.tree import PlanTree
from laminogram.probe.program import Effects
from laminogram.probe.subject import Subject
from laminogram.stack.batch import Batch
from laminogram.studies.painters.pieces import Pieces

BATCH_TOKENS = 2048
"""Tokens in a batch, pads counted."""
MASK = "[MASK]"
MASKED = 8
"""Every so many tokens one is masked, in as many passes as it takes to mask each token once."""

Rows = list[list[float]]
"""Sums (B, columns) of one batch under one plan."""


@dataclass(frozen=True)
class Read:
    """One batch: token rows, the unit that each belongs to, and what is asked of it as (row,
    column, token that is expected there)."""

    inputs: tuple[tuple[int, ...], ...]
    owners: tuple[int, ...]
    asked: tuple[tuple[int, int, int], ...] = ()

    @cached_property
    def hash(self) -> str:
        """BLAKE2b, 16 hex digits, of all of it."""
        facts = json.dumps([self.inputs, self.owners, self.asked])
        return blake2b(facts.encode(), digest_size=8).hexdigest()

    @property
    def size(self) -> int:
        """Tokens, pads counted."""
        return len(self.inputs) * max(map(len, self.inputs))


class Scorer(Protocol):
    """What the sweep needs: batches, and the sums of every plan over one of them.

    measure: what it measures, in words. columns: names of the sums; the first one counts.
    """

    measure: str
    columns: tuple[str, ...]
    batches: Sequence[Read]

    def score(
        self, view: Subject, tree: PlanTree, batch: Read, effects: Effects
    ) -> Iterator[tuple[int, Rows]]:
        """Yield (number of the plan, sums (B, columns)) in the order of the tree; `effects` gets
        what edits did, at the end."""
        ...


class Predicting:
    """Nats of every expected token, and the distance from what the unchanged model predicts.

    columns: tokens; nats, the sum of -log q; kl, the sum of KL(unchanged || plan) in nats;
    agreement, how often both find the same token likeliest.
    """

    columns: tuple[str, ...] = ("tokens", "nats", "kl", "agreement")

    def __init__(self, measure: str, batches: Sequence[Read]) -> None:
        self.measure: str = measure
        self.batches: Sequence[Read] = batches

    @torch.no_grad()
    def score(
        self, view: Subject, tree: PlanTree, batch: Read, effects: Effects
    ) -> Iterator[tuple[int, Rows]]:
        """See `Scorer`."""
        rows, columns, targets = torch.tensor(batch.asked).T
        tokens = Batch.of(batch.inputs, vocab_size=view.config.vocab_size)
        every = "all" if needs_all_logits(view) else "none"
        full = replace(view, plan=view.stack.full_plan())
        # What edits do here they do in the sweep too, where it is counted.
        out = full.run(tokens, observer=full.program(), logits=every)  # type: ignore[arg-type]
        base = [part.log_softmax(-1) for part in _logits(view, out[rows, columns])]
        for number, out in view.sweep(tree, tokens, logits=every, effects=effects):  # type: ignore[arg-type]
            found = _compared(base, _logits(view, out[rows, columns]), targets.to(out.device))
            sums = torch.zeros(len(batch.inputs), found.shape[1], dtype=torch.float64)
            yield number, sums.index_add_(0, rows, found).tolist()


class Reading:
    """How far a text's vector, the mean of its last states, turns from that of the unchanged model.

    columns: texts; distance, the sum of 1 - cosine.
    """

    columns: tuple[str, ...] = ("texts", "distance")
    measure: str = "cosine of a text's mean last state with that of the unchanged model"

    def __init__(self, batches: Sequence[Read]) -> None:
        self.batches: Sequence[Read] = batches

    @torch.no_grad()
    def score(
        self, view: Subject, tree: PlanTree, batch: Read, effects: Effects
    ) -> Iterator[tuple[int, Rows]]:
        """See `Scorer`."""
        tokens = Batch.of(batch.inputs, vocab_size=view.config.vocab_size)
        full = replace(view, plan=view.stack.full_plan())
        base = _mean_state(full.run(tokens, observer=full.program(), logits="none"), tokens)
        for number, out in view.sweep(tree, tokens, logits="none", effects=effects):
            # 1 - cosine of unit vectors, and exactly 0 for equal ones.
            turned = (base - _mean_state(out, tokens)).square().sum(-1) / 2
            yield number, [[1.0, value] for value in turned.tolist()]


def scorer(view: Subject, pieces: Pieces) -> Scorer:
    """The scorer that fits the model: its next token; the masked token of an encoder that has a
    head and a mask; else what its states say."""
    mask = None if view.tokenizer is None else view.tokenizer.id_of(MASK)
    if not view.config.head.present or (mask is None and not view.config.causal):
        reads = [Read((row,), (owner,)) for row, owner in zip(pieces.rows, pieces.owners)]
        return Reading(_joined(reads, BATCH_TOKENS))
    # What the unchanged model predicts is kept while all plans run: so much and no more.
    budget = max(64, min(BATCH_TOKENS, 4 * CHUNK // view.config.vocab_size))
    if view.config.causal:
        reads = [_next(row, owner) for row, owner in zip(pieces.rows, pieces.owners)]
        return Predicting("loss of each token given those before it", _joined(reads, budget))
    assert mask is not None
    ends = set(view.needed_tokenizer().encode(""))
    reads = [
        read
        for row, owner in zip(pieces.rows, pieces.owners)
        for read in _masked(row, owner, mask, ends)
    ]
    said = f"loss of masked tokens, each token masked once, every {MASKED}th at a time"
    return Predicting(said, _joined(reads, budget))


def _next(row: tuple[int, ...], owner: int) -> Read:
    asked = tuple((0, place, token) for place, token in enumerate(row[1:]))
    return Read((row[:-1],), (owner,), asked)


def _masked(row: tuple[int, ...], owner: int, mask: int, ends: set[int]) -> Iterator[Read]:
    """Pseudo-likelihood (Salazar et al. 2020, arXiv 1910.14659) in fewer passes."""
    places = [place for place, token in enumerate(row) if token not in ends]
    for first in range(min(MASKED, len(places))):
        hidden = places[first::MASKED]
        inputs = tuple(mask if place in hidden else token for place, token in enumerate(row))
        yield Read((inputs,), (owner,), tuple((0, place, row[place]) for place in hidden))


def _joined(reads: Sequence[Read], budget: int) -> list[Read]:
    """Rows of like length in batches of at most `budget` tokens; a row alone may be longer."""
    batches: list[list[Read]] = []
    for read in sorted(reads, key=lambda one: (-one.size, one.inputs)):
        if not batches or (len(batches[-1]) + 1) * batches[-1][0].size > budget:
            batches.append([])
        batches[-1].append(read)
    return [
        Read(
            tuple(read.inputs[0] for read in batch),
            tuple(read.owners[0] for read in batch),
            tuple((n, *asked[1:]) for n, read in enumerate(batch) for asked in read.asked),
        )
        for batch in batches
    ]


def _logits(view: Subject, columns: Tensor) -> Iterator[Tensor]:
    """Logits (n, V), fp32 or wider, of what enters the head (N, C), some columns at a time."""
    stack, ready = view.stack, needs_all_logits(view)
    for part in columns.split(max(1, CHUNK // view.config.vocab_size)):
        logits = part if ready else stack.head(part, stack.tied_table)
        yield logits if logits.dtype == torch.float64 else logits.float()


def _compared(base: Sequence[Tensor], logits: Iterator[Tensor], targets: Tensor) -> Tensor:
    """Of every scored token (N, 4) what `Predicting.columns` names, fp64."""
    found, done = [], 0
    for p, part in zip(base, logits, strict=True):
        q, wanted = part.log_softmax(-1), targets[done : done + len(part)]
        done += len(part)
        nats = F.nll_loss(q, wanted, reduction="none")
        same = same_likeliest(p, q).to(nats.dtype)
        found.append(torch.stack((torch.ones_like(nats), nats, kl(p, q), same), 1).double().cpu())
    return torch.cat(found)


def _mean_state(final: Tensor, tokens: Batch) -> Tensor:
    """The direction of the mean over real tokens (B, C), fp64, of length 1."""
    mask = tokens.mask.to(final.device)[..., None]
    return F.normalize(final.double().masked_fill(~mask, 0).sum(1).cpu(), dim=-1)
