"""Cutting a text at the names of its special tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping


class Names:
    """Texts that are one token each wherever they stand; where several fit, the longest.

    A name of `hidden` counts only behind a name that begins the text (`[gMASK]sop`): elsewhere it
    would be found inside words.
    """

    def __init__(self, ids: Mapping[str, int], hidden: frozenset[str] = frozenset()) -> None:
        self.ids = dict(ids)
        self.by_id = {number: name for name, number in self.ids.items()}
        self.hidden = hidden
        longest_first = sorted(self.ids.keys() - hidden, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def cut(self, text: str) -> Iterator[tuple[str, int | None]]:
        """The pieces of a text in order, none empty, each with its id where it is a name."""
        pieces = self._pattern.split(text) if self.ids.keys() - self.hidden else [text]
        for place, piece in enumerate(pieces):
            if place % 2:
                yield piece, self.ids[piece]
                continue
            second = place == 2 and not pieces[0]
            behind = self._hidden_start(piece) if second else ""
            if behind:
                yield behind, self.ids[behind]
            if piece[len(behind) :]:
                yield piece[len(behind) :], None

    def _hidden_start(self, piece: str) -> str:
        """The longest hidden name that the piece begins with, or nothing."""
        return max((name for name in self.hidden if piece.startswith(name)), key=len, default="")

    def plus(self, names: Mapping[str, int]) -> Names:
        """These names and further ones."""
        return Names(self.ids | dict(names), self.hidden)
