"""The unchanged model's predictions of a batch, against which every condition is scored.

Axes: B documents of a batch, T tokens, C channels, N predicted tokens of some documents, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from laminogram.probe.subject import Subject
from laminogram.stack.batch import Batch

_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 22}
"""Logits of one model that are worked on at one time, in fp64: what a core's cache holds, and what
keeps a GPU busy."""
_KEPT = 1 << 24
"""Log-probabilities of the unchanged model that are kept with their exponentials: 256 MiB in all;
those beyond are made anew."""


class Scores:
    """The unchanged model, by what enters its head (B, T, C); its log-probabilities are made once
    for all conditions, as far as they fit. nats (B,): its own summed loss, in fp64."""

    def __init__(self, view: Subject, plain: Tensor, batch: Batch) -> None:
        self._view, self._plain, self._count = view, plain, len(batch.lengths)
        self._rows, self._columns = batch.mask[:, 1:].cpu().nonzero(as_tuple=True)
        self._targets = batch.tokens.cpu()[self._rows, self._columns + 1]
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        nats = torch.zeros(self._count, dtype=torch.float64)
        for here in self._chunks():
            self._add(nats, here, self._loss(self._unchanged(here)[0], here))
        self.nats: np.ndarray = nats.numpy()

    def of(self, view: Subject, out: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """From what enters its head (B, T, C): a changed model's summed loss (B,), and the summed
        KL(unchanged || changed) (B,), over the tokens that have a next one; in fp64."""
        nats, kl = torch.zeros(2, self._count, dtype=torch.float64)
        for here in self._chunks():
            after = self._log_probabilities(view, out, here)
            self._add(nats, here, self._loss(after, here))
            before, p = self._unchanged(here)
            # In fp64 what cancels here is some 1e-16 of a nat; equal predictions give exactly 0.
            terms = torch.where(p == 0, 0.0, p * (before - after))
            self._add(kl, here, terms.sum(-1).clamp(min=0))
        return nats.numpy(), kl.numpy()

    def _chunks(self) -> Iterator[slice]:
        most = _CHUNK.get(self._plain.device.type, _CHUNK["cpu"])
        size = max(1, most // self._view.config.vocab_size)
        return (slice(start, start + size) for start in range(0, len(self._rows), size))

    def _unchanged(self, here: slice) -> tuple[Tensor, Tensor]:
        """The unchanged log-probabilities (N, V) of a chunk, and the probabilities."""
        if here.start in self._kept:
            return self._kept[here.start]
        log_p = self._log_probabilities(self._view, self._plain, here)
        made = log_p, log_p.exp()
        if log_p.numel() + sum(one.numel() for one, _ in self._kept.values()) <= _KEPT:
            self._kept[here.start] = made
        return made

    def _log_probabilities(self, view: Subject, x: Tensor, here: slice) -> Tensor:
        chosen = x[self._rows[here], self._columns[here]]
        return view.stack.head(chosen, view.stack.tied_table).double().log_softmax(-1)

    def _loss(self, log_p: Tensor, here: slice) -> Tensor:
        return -log_p.gather(1, self._targets[here, None].to(log_p.device))[:, 0]

    def _add(self, sums: Tensor, here: slice, values: Tensor) -> None:
        sums.index_add_(0, self._rows[here], values.cpu())
