"""How rows of tokens reach the model, one new token each: with a cache, or the whole text again.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.infer.past import Frozen, Past
from laminogram.probe.subject import Subject
from laminogram.stack import rope
from laminogram.stack.batch import Batch
from laminogram.stack.forward import regime_of
from laminogram.stack.sites import STACK_STEP
from laminogram.stack.taps import Observer, Run, Taps


class LiveRows:
    """An observer's view of a batch in which some rows have ended: those count as pads."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.ended: set[int] = set()

    @property
    def edits(self) -> tuple[object, ...]:
        """The edits that the observer carries."""
        return tuple(getattr(self._observer, "edits", ()))

    def taps(self, step: int) -> Taps:
        """The observer's own."""
        return self._observer.taps(step)

    def begin(self, run: Run) -> None:
        """The run without the rows that have ended."""
        if self.ended:
            live = torch.tensor([row not in self.ended for row in range(len(run.lengths))])
            run = replace(run, mask=run.mask & live.to(run.mask.device)[:, None])
        self._observer.begin(run)

    def take(self, site: str, step: int, x: Tensor) -> None:
        """Pass a reading on."""
        self._observer.take(site, step, x)


class Feeder:
    """Feeds whole rows at every step; `tokens` are shared with the caller, who appends to them."""

    def __init__(
        self, view: Subject, tokens: list[list[int]], observer: Observer | None = None
    ) -> None:
        self.view, self.tokens = view, tokens
        self.ended: set[int] = set()
        self._observer = None if observer is None else LiveRows(observer)
        # Where the logits themselves are tapped, a tap must see every column.
        self._tapped = observer is not None and observer.taps(STACK_STEP).wants("logits")

    def first(self) -> Tensor:
        """Logits (B, V) after everything that is not yet read."""
        return self._run(self._whole())

    def next(self, ids: Tensor) -> Tensor:
        """Logits (B, V) after one more token each; `ids` (B,) are those just appended."""
        return self._run(self._whole())

    def end(self, rows: Sequence[int]) -> None:
        """These rows go no further: their last token is not fed."""
        self.ended.update(rows)
        if self._observer is not None:
            self._observer.ended.update(rows)

    def close(self) -> None:
        """After the last step."""

    def _whole(self) -> Batch:
        rows = [row[:-1] if i in self.ended else row for i, row in enumerate(self.tokens)]
        return Batch.of(rows, vocab_size=self.view.config.vocab_size)

    def _run(self, batch: Batch, past: Past | None = None) -> Tensor:
        logits = self.view.run(
            batch,
            cache=None if past is None else past.cache,
            logits="all" if self._tapped else "last",
            observer=self._observer,
        )
        if not self._tapped:
            return logits[:, 0]
        last = torch.tensor([length - 1 for length in batch.lengths], device=logits.device)
        return logits[torch.arange(len(batch.lengths), device=logits.device), last]


class CachedFeeder(Feeder):
    """Feeds only what is new, and remembers the rest in `past`."""

    def __init__(self, view: Subject, past: Past, observer: Observer | None = None) -> None:
        super().__init__(view, past.tokens, observer)
        self.past = past
        self._frozen = Frozen(past)
        self._regimes = any(rope.depends_on_length(one) for one in view.stack.rotary.ropes)

    def first(self) -> Tensor:
        """Logits (B, V) after what the cache has not seen yet."""
        pending = self.past.pending
        batch = Batch.of(pending, vocab_size=self.view.config.vocab_size)
        if self._outgrown(batch.lengths):
            return self._rebuild()
        return self._run(batch, self.past)

    def next(self, ids: Tensor) -> Tensor:
        """Logits (B, V) after one more token each."""
        rows = len(self.tokens)
        if self._frozen.rows:
            self._frozen.step_back()
            ids = self._again()
        ones = (1,) * rows
        if self._outgrown(ones):
            return self._rebuild()
        return self._run(Batch(ids[:, None], ones, (0,) * rows, 1), self.past)

    def end(self, rows: Sequence[int]) -> None:
        """These rows go no further, and keep their place in the cache as it is."""
        super().end(rows)
        for row in rows:
            self._frozen.add(row)

    def close(self) -> None:
        """After the last step, or an error: leave the cache so that it can be gone on from."""
        self._frozen.restore()

    def _again(self) -> Tensor:
        """The tokens (B,) at the place where each row of the cache stands."""
        seen = self.past.cache.lengths
        return torch.tensor([row[n] for row, n in zip(self.tokens, seen, strict=True)])

    def _outgrown(self, more: Sequence[int]) -> bool:
        """Whether `more` tokens a row turn what is cached by other rotary frequencies."""
        cache = self.past.cache
        if not self._regimes or not any(cache.lengths):
            return False
        totals = (a + b for a, b in zip(cache.lengths, more, strict=True))
        planned = tuple(max(total, cache.planned) for total in totals)
        return regime_of(self.view.stack, planned) != cache.regime

    def _rebuild(self) -> Tensor:
        """Fill a new cache from the tokens, under the frequencies of the present length."""
        if self.view.kv == "averaged":
            raise ConfigError(
                "kv='averaged' goes on from a cache, and here the rotary frequencies change with "
                "the length, for which the cache must be made anew: use kv='exact'"
            )
        old = self.past.cache
        self.past.cache = self.view.new_cache(old.batch, planned=old.planned)
        logits = self._run(self._whole(), self.past)
        self._frozen.refresh()
        return logits
