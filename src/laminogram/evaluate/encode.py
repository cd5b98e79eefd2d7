"""From the texts of requests to tokens, as lm-evaluation-harness' own Hugging Face model does it.

Read in lm-evaluation-harness 0.4.13 (`TemplateLM._encode_pair`, `HFLM.tok_encode`,
`utils.get_rolling_token_windows`): the space between context and continuation belongs to the
continuation, a text is encoded whole and split where the context's own encoding ends, an empty
context is the begin-of-text token, and what is too long loses its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from laminogram.errors import ConfigError, TokenError
from laminogram.probe.subject import Subject

LONGEST = 2048
"""Tokens a row where the model names no limit, as in the harness."""


@dataclass(frozen=True)
class Row:
    """Tokens of which the last `scored` are asked for, each given all before it."""

    tokens: tuple[int, ...]
    scored: int

    @property
    def inputs(self) -> tuple[int, ...]:
        """What the model reads: all but the last token."""
        return self.tokens[:-1]

    @property
    def targets(self) -> tuple[int, ...]:
        """The tokens that are scored."""
        return self.tokens[-self.scored :]

    @property
    def given(self) -> int:
        """How many inputs stand before the first one after which something is scored."""
        return len(self.tokens) - 1 - self.scored


class Encoder:
    """Texts to rows for one model.

    max_length: tokens that the model reads at most, by default what it was trained for, or
    `LONGEST`. bos: whether texts begin with the begin-of-text token; None is the tokenizer's habit.
    ConfigError for a length below 2; TokenError without a tokenizer.
    """

    def __init__(
        self, view: Subject, *, max_length: int | None = None, bos: bool | None = None
    ) -> None:
        self._tokenizer = view.needed_tokenizer()
        self.max_length = max_length or view.config.max_position_embeddings or LONGEST
        if self.max_length < 2:
            raise ConfigError(f"max_length is {self.max_length}; it must be at least 2")
        self.bos = bos
        ends = (*self._tokenizer.eos, *view.config.eos_token_ids)
        begins = (self._tokenizer.bos, view.config.bos_token_id)
        self._prefix = next((one for one in (*begins, *ends) if one is not None), None)
        self._name = view.name
        self._encode = lru_cache(maxsize=1 << 14)(self._encode_anew)

    @property
    def prefix(self) -> int:
        """The token that stands for an empty context: begin of text, else end of text."""
        if self._prefix is None:
            raise TokenError(
                f"{self._name} names neither a begin-of-text nor an end-of-text token, and a text "
                "without context needs one before it"
            )
        return self._prefix

    def pair(self, context: str, continuation: str) -> Row:
        """The row of a continuation after a context. TokenError where the continuation has no
        token of its own, or more than the model reads."""
        if context:
            given, scored = self._split(context, continuation)
        else:
            scored = self._encode(continuation, False)
            given = (self.prefix,)
            if scored[:1] == given:
                given, scored = scored[:1], scored[1:]
        if not scored:
            raise TokenError(f"{continuation!r} adds no token to the text before it")
        if len(scored) > self.max_length:
            raise TokenError(
                f"a continuation has {len(scored)} tokens; the model reads {self.max_length}"
            )
        return Row((given + scored)[-(self.max_length + 1) :], len(scored))

    def windows(self, text: str) -> list[Row]:
        """A whole text, each token scored once: rows of at most `max_length` inputs, of which every
        later one begins with the last token of the one before."""
        tokens = self._encode(text, self._habit(text))
        return list(rolling((self.prefix, *tokens), self.max_length, self.max_length))

    def prompt(self, context: str, new_tokens: int) -> tuple[int, ...]:
        """A prompt with room for new tokens; TokenError where the model has none."""
        room = self.max_length - new_tokens
        if room < 1:
            raise TokenError(
                f"{new_tokens} new tokens are asked for; the model reads {self.max_length} in all"
            )
        return self._encode(context, self._habit(context))[-room:]

    def _split(self, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        whole = self._encode(stripped + continuation, self._habit(stripped + continuation))
        given = self._encode(stripped, self._habit(stripped)) if stripped else ()
        return given or (self.prefix,), whole[len(given) :]

    def _habit(self, text: str) -> bool | None:
        """No second begin of text before one that is written out."""
        mark = None if self._prefix is None else self._tokenizer.name_of(self._prefix)
        return False if mark and text.startswith(mark) else self.bos

    def _encode_anew(self, text: str, bos: bool | None) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, bos))


def rolling(tokens: Sequence[int], length: int, stride: int) -> Iterator[Row]:
    """Rows of at most `length` inputs over a text, which score every token but the first once.

    A later row scores `stride` tokens, the last one what is left; all but the first look back as
    far as `length` allows.
    """
    tokens = tuple(tokens)
    begin, end = 1, min(len(tokens), length + 1)
    while begin < len(tokens):
        yield Row(tokens[max(0, end - length - 1) : end], end - begin)
        begin, end = end, min(len(tokens), end + stride)
