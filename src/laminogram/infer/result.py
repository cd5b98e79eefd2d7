"""What a generation returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

from laminogram.infer.past import Past

FinishReason = Literal["stop", "length", "eos"]


@dataclass(frozen=True, eq=False)
class Generation:
    """One continued row; prints as its text.

    text: what was shown, up to a stop string or the end-of-text token (None without a tokenizer);
    tokens: every new id, those of a stop string or an end of text included; prompt_tokens: all ids
    before them; finish_reason: `stop`, `eos`, or `length` for `max_new_tokens`.
    """

    text: str | None
    tokens: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    finish_reason: FinishReason
    past: Past | None = field(default=None, repr=False)
    row: int = 0

    @property
    def cache(self) -> Past | None:
        """What `generate(..., cache=)` goes on from: for one of several rows a copy of its own.

        None where it was generated without a cache.
        """
        if self.past is None or self.past.rows == 1:
            return self.past
        return self.past.row(self.row)

    def __str__(self) -> str:
        return " ".join(map(str, self.tokens)) if self.text is None else self.text


class Generations(Sequence[Generation]):
    """Several continued rows, in order; `cache` holds them all and can be gone on from."""

    def __init__(self, rows: Sequence[Generation], cache: Past | None) -> None:
        self._rows, self.cache = tuple(rows), cache

    @overload
    def __getitem__(self, index: int) -> Generation: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Generation]: ...

    def __getitem__(self, index: int | slice) -> Generation | Sequence[Generation]:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def texts(self) -> list[str | None]:
        """The text of each row."""
        return [one.text for one in self._rows]

    def __repr__(self) -> str:
        rows = (f"[{i}] {one}" for i, one in enumerate(self._rows))
        return "\n".join(rows)
