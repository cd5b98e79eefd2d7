"""RWKV's World vocabulary: greedy longest match over bytes.

The file has one token a line, `id literal length`, the literal a Python string or bytes literal
(ChatRWKV's `rwkv_vocab_v20230424.txt`, which the `rwkv` package ships). Literals are read by
`ast.literal_eval`; nothing is executed. Id 0 ends a text and is not in the file.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

from laminogram.checkpoint.write import write_text
from laminogram.errors import CheckpointError
from laminogram.tokenizers._names import Names
from laminogram.tokenizers.base import Manner, Tokenizer, surrogate

FILE, PATTERN = "rwkv_vocab_v20230424.txt", "rwkv_vocab_v*.txt"
END, END_NAME = 0, "<|endoftext|>"
_PREFIX = 4
"""Bytes by which the long tokens are sorted into buckets; measured fastest of 2 to 6."""
_MEMORISED, _SHORT = 65536, 64


class LongestMatch:
    """Bytes to ids: at each place the longest token that begins there.

    A trie flattened to two levels: tokens of at least four bytes lie in buckets by their first
    four, each bucket knowing the lengths that occur in it. Before a space that no token has inside
    itself at that place every match ends, so that text is cut there, and a piece seen before is
    remembered. Every single byte must be a token.
    """

    def __init__(self, ids: dict[bytes, int]) -> None:
        self.ids = ids
        lengths: dict[bytes, set[int]] = {}
        for token in ids:
            if len(token) >= _PREFIX:
                lengths.setdefault(token[:_PREFIX], set()).add(len(token))
        short = range(_PREFIX - 1, 0, -1)
        self._short = tuple(short)
        self._lengths = {k: (*sorted(v, reverse=True), *short) for k, v in lengths.items()}
        self._cut = re.compile(b"(?<=[" + _before_space(ids) + b"])(?= )")
        self._remembered = lru_cache(maxsize=_MEMORISED)(self._match)

    def __call__(self, text: bytes) -> list[int]:
        """The ids of a text."""
        out: list[int] = []
        for piece in self._cut.split(text):
            out += self._remembered(piece) if len(piece) <= _SHORT else self._match(piece)
        return out

    def _match(self, text: bytes) -> tuple[int, ...]:
        ids, lengths, short = self.ids, self._lengths, self._short
        out, place, end = [], 0, len(text)
        while place < end:
            for length in lengths.get(text[place : place + _PREFIX], short):
                token = ids.get(text[place : place + length])
                if token is not None:
                    out.append(token)
                    # The end of the text may have cut the slice short.
                    place += min(length, end - place)
                    break
        return tuple(out)


class WorldTokenizer(Tokenizer):
    """Byte strings by id. `names`: texts that are one token each, cut out before the rest."""

    def __init__(
        self, table: dict[int, bytes], manner: Manner | None = None, names: Names | None = None
    ) -> None:
        super().__init__(manner)
        self._table, self._names = table, names or Names({})
        self._match = LongestMatch({token: number for number, token in table.items()})

    @property
    def vocab_size(self) -> int:
        return 1 + max((*self._table, *self._names.by_id))

    def name_of(self, token: int) -> str | None:
        if token == END:
            return END_NAME
        known = self._table.get(token)
        return self._names.by_id.get(token) if known is None else repr(known)

    def id_of(self, name: str) -> int | None:
        if name == END_NAME:
            return END
        found = self._names.ids.get(name)
        return (
            self._match.ids.get(name.encode("utf-8", "surrogatepass")) if found is None else found
        )

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        names = self._names.by_id if skip_special else {END: END_NAME, **self._names.by_id}
        table = self._table
        parts = (table[i] if i in table else names.get(i, "").encode() for i in ids)
        return b"".join(parts).decode("utf-8", errors="replace")

    def _plain(self, text: str) -> list[int]:
        out: list[int] = []
        try:
            for piece, number in self._names.cut(text):
                out += self._match(piece.encode()) if number is None else [number]
        except UnicodeEncodeError as error:
            raise surrogate(text) from error
        return out

    def _extended(self, tokens: Sequence[str]) -> Self:
        numbers = range(self.vocab_size, self.vocab_size + len(tokens))
        more = self._names.plus(dict(zip(tokens, numbers, strict=True)))
        return type(self)(self._table, self.manner, more)

    def _save_vocabulary(self, directory: Path) -> None:
        lines = (f"{n} {_literal(token)} {len(token)}\n" for n, token in self._table.items())
        write_text(directory / FILE, "".join(lines))
        if self._names.ids:
            write_text(directory / "added_tokens.json", json.dumps(self._names.ids, indent=2))


def read_world(file: Path, manner: Manner | None = None) -> WorldTokenizer:
    """A vocabulary file; CheckpointError names the line that cannot be read."""
    manner = manner or Manner()
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} is no readable vocabulary: {error}") from error
    table: dict[int, bytes] = {}
    seen: set[bytes] = set()
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        number, token = _entry(line, f"{file}, line {place}")
        if number in table or number == END or token in seen:
            raise CheckpointError(f"{file}, line {place}: id {number} or its text is named twice")
        table[number] = token
        seen.add(token)
    missing = sum(bytes([value]) not in seen for value in range(256))
    if missing:
        raise CheckpointError(f"{file} lacks {missing} of the 256 single bytes: it is truncated")
    names = {name: number for number, name in manner.settings.added.items() if number not in table}
    return WorldTokenizer(table, manner, Names(names))


def _entry(line: str, where: str) -> tuple[int, bytes]:
    """The id and the bytes that a line names."""
    number, _, rest = line.partition(" ")
    literal, _, length = rest.rstrip("\r").rpartition(" ")
    try:
        value = _value(literal)
        token = value.encode() if isinstance(value, str) else value
        if isinstance(token, bytes) and token and len(token) == int(length):
            return int(number), token
    # What literal_eval raises depends on how the text is broken.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise CheckpointError(f"{where}: {line[:60]!r} is no `id literal length`") from error
    raise CheckpointError(f"{where}: {line[:60]!r} names no text of {length} bytes")


def _value(literal: str) -> object:
    quote, inner = literal[:1], literal[1:-1]
    if quote in ("'", '"') and literal[-1] == quote and quote not in inner and "\\" not in inner:
        return inner  # most lines; the general way takes twice the time
    return ast.literal_eval(literal)


def _literal(token: bytes) -> str:
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)


def _before_space(ids: dict[bytes, int]) -> bytes:
    """The bytes, escaped for a character class, that no token has in front of a space."""
    joined = {token[i] for token in ids for i in range(len(token) - 1) if token[i + 1] == 32}
    return re.escape(bytes(sorted(set(range(256)) - joined)))
