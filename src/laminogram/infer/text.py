"""Text as it comes: whole characters only, and nothing of a stop string.

A token may end inside a character, and a stop string may begin in one token and end in a later one.
What cannot yet be known to be shown is kept back. The work for one token is bounded, whatever came
before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from laminogram.errors import ConfigError

Decode = Callable[[Sequence[int]], str]

UNKNOWN = "�"
"""What a decoder writes for bytes that are no character, or none yet."""
_LONGEST = 4
"""Bytes of the longest character; so many tokens at most can share one."""
_WINDOW = 6 * _LONGEST
"""Tokens after which a window full of broken bytes is cut."""


class CharacterStream:
    """Tokens in, the text that is certain out.

    Decoders may treat the first token in a special way (many drop its space), so that each piece
    is decoded together with some tokens before it, and the difference is what is new. `context`
    are tokens already shown, such as the end of a prompt.
    """

    def __init__(self, decode: Decode, context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(context)[-_WINDOW:]
        text = decode(self._window) if self._window else ""
        self._shown = len(_certain(text))
        # Where the tokens begin that follow the last whole character.
        self._open = len(self._window) if self._shown == len(text) else 0

    def push(self, token: int) -> str:
        """The text that has become certain with one more token."""
        self._window.append(token)
        text = self._decode(self._window)
        certain = _certain(text)
        # A decoder that changes its mind about what was shown cannot be followed.
        fresh = certain[self._shown :]
        self._shown = max(self._shown, len(certain))
        if len(certain) == len(text):
            self._advance(bool(fresh))
        elif len(self._window) > _WINDOW:
            self._cut(text)
        return fresh

    def close(self) -> str:
        """What was kept back; broken bytes stand as U+FFFD."""
        if not self._window:
            return ""
        text = self._decode(self._window)
        fresh, self._shown = text[self._shown :], len(text)
        return fresh

    def _advance(self, spoke: bool) -> None:
        """Keep the tokens of the last piece of text alone, as context of the next."""
        if spoke or len(self._window) > _WINDOW:
            del self._window[: self._open]
            self._shown = len(self._decode(self._window))
        self._open = len(self._window)

    def _cut(self, text: str) -> None:
        """Forget tokens at a place where text falls into two parts, with the tail in the second."""
        end = len(self._window) - _LONGEST
        for place in range(end, max(end - 3 * _LONGEST, 0), -1):
            head = self._decode(self._window[:place])
            if len(head) <= self._shown and head + self._decode(self._window[place:]) == text:
                del self._window[:place]
                self._shown -= len(head)
                self._open = max(self._open - place, 0)
                return


def _certain(text: str) -> str:
    """Text without the end that a next token may still change.

    An unfinished character shows as one U+FFFD, or where a decoder writes one a byte as up to
    three. Earlier ones are broken for good.
    """
    kept = len(text)
    while kept and text[kept - 1] == UNKNOWN and len(text) - kept < _LONGEST - 1:
        kept -= 1
    return text[:kept]


class StopFilter:
    """Text in, text out, up to the first stop string; `stopped` is the one that was found.

    The first is the one that is complete first, so that it does not matter in which pieces a text
    comes. The end of the text that could be the beginning of a stop string is kept back.
    """

    def __init__(self, stop: str | Sequence[str] = ()) -> None:
        self.stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(isinstance(one, str) and one for one in self.stops):
            raise ConfigError("a stop string must be text of at least one character")
        self.stopped: str | None = None
        self._kept = ""

    def push(self, text: str) -> str:
        """What of the text so far may be shown now; "" after a stop."""
        if self.stopped is not None:
            return ""
        held = self._kept + text
        places = [(held.find(stop), stop) for stop in self.stops]
        found = [(place + len(stop), place, stop) for place, stop in places if place >= 0]
        if found:
            _, place, self.stopped = min(found)
            self._kept = ""
            return held[:place]
        kept = max((_overlap(held, stop) for stop in self.stops), default=0)
        self._kept = held[len(held) - kept :]
        return held[: len(held) - kept]

    def close(self) -> str:
        """What was kept back and turned out to be no stop string."""
        rest, self._kept = self._kept, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """The longest end of `text` that is a true beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[len(text) - size :]):
            return size
    return 0


class TextStream:
    """The text of one row, token by token; `show` is called with each new piece."""

    def __init__(
        self,
        decode: Decode,
        stop: str | Sequence[str] = (),
        context: Sequence[int] = (),
        show: Callable[[str], object] | None = None,
    ) -> None:
        self._characters = CharacterStream(decode, context)
        self._filter = StopFilter(stop)
        self._show = show
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """Everything shown so far."""
        return "".join(self._parts)

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text."""
        return self._filter.stopped

    def push(self, token: int) -> bool:
        """Take one token; true where a stop string is now complete."""
        self._emit(self._filter.push(self._characters.push(token)))
        return self.stopped is not None

    def close(self) -> bool:
        """Show what was kept back; true where that completed a stop string."""
        if self.stopped is None:
            self._emit(self._filter.push(self._characters.close()))
            self._emit(self._filter.close())
        return self.stopped is not None

    def _emit(self, piece: str) -> None:
        if piece:
            self._parts.append(piece)
            if self._show is not None:
                self._show(piece)
