"""Rank files of OpenAI's tiktoken: one token a line, base64 and rank.

The ids are those of tiktoken. It merges, again and again, the adjacent pair whose joined bytes have
the lowest rank. The pair that a token comes from this way is the one that the same procedure ends
with on the token alone, so that every other way to cut the token in two may stand among the merges:
no text reaches it. A piece that is a token as a whole is never cut.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from laminogram.errors import CheckpointError
from laminogram.families.base import TiktokenHabits
from laminogram.tokenizers.base import Manner
from laminogram.tokenizers.fast import FastTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Inner


def is_tiktoken(file: Path) -> bool:
    """Whether a file begins as a rank file does (a sentencepiece model is binary)."""
    with file.open("rb") as stream:
        first = stream.readline(4096).split()
    return len(first) == 2 and first[1].isdigit() and _bytes(first[0]) is not None


def read_tiktoken(file: Path, manner: Manner, habits: TiktokenHabits) -> FastTokenizer:
    """A rank file as a tokenizer.

    Special tokens are those of the settings, else those that `habits` names, numbered on from the
    last rank. CheckpointError names the line that cannot be read.
    """
    ranks = read_ranks(file)
    special = dict(manner.settings.added)
    if not special:
        special = dict(enumerate(habits.special, 1 + max(ranks.values())))
    taken = {number: name for name, number in ranks.items()}
    for number, name in special.items():
        if number in taken:
            raise CheckpointError(f"{file}: id {number} is both {taken[number]!r} and {name!r}")
    return FastTokenizer(_build(ranks, special, habits), manner, complete=False)


def read_ranks(file: Path) -> dict[bytes, int]:
    """The tokens of a rank file by their bytes; CheckpointError for a line that is none, for a rank
    or token that stands there twice, and for a file that lacks a single byte."""
    ranks: dict[bytes, int] = {}
    seen: set[int] = set()
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    for place, line in enumerate(lines, 1):
        parts = line.split()
        if not parts:
            continue
        token = _bytes(parts[0]) if len(parts) == 2 and parts[1].isdigit() else None
        if token is None:
            raise CheckpointError(f"{file}, line {place}: {line[:60]!r} is no base64 and rank")
        rank = int(parts[1])
        if rank in seen or token in ranks:
            raise CheckpointError(f"{file}, line {place}: rank {rank} or its token stands twice")
        ranks[token] = rank
        seen.add(rank)
    missing = sum(bytes([value]) not in ranks for value in range(256))
    if missing:
        raise CheckpointError(f"{file} lacks {missing} of the 256 single bytes: it is truncated")
    return ranks


def _build(ranks: Mapping[bytes, int], special: Mapping[int, str], habits: TiktokenHabits) -> Inner:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as pre

    letters = byte_letters()
    names = {token: "".join(letters[value] for value in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        name = names[token]
        cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
        merges += [(names[a], name[len(a) :]) for a, b in cuts if a in ranks and b in ranks]
    vocabulary = {names[token]: rank for token, rank in ranks.items()}
    # A token that is in the vocabulary keeps its id when it is added.
    vocabulary.update({name: number for number, name in special.items()})
    inner = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    if habits.nfc:
        inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre.Sequence(
        [
            pre.Split(Regex(habits.pattern), behavior="isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(special[i], normalized=False) for i in sorted(special)])
    return inner


def byte_letters() -> dict[int, str]:
    """The visible character that stands for each byte in byte-level BPE (from GPT-2's encoder):
    itself where it is printable, else one of the characters from U+0100 on, in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in set(printable)]
    letters = {value: chr(value) for value in printable}
    return letters | {value: chr(256 + place) for place, value in enumerate(others)}


def _bytes(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) or None
    except binascii.Error:
        return None
