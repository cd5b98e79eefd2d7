"""Sentencepiece models (tokenizer.model), run by the `sentencepiece` package, so that ids are its.

Around it stand the names that it does not know: added tokens, and the control pieces, which a text
of a chat names (`<s>`) and sentencepiece alone reads as letters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from laminogram.checkpoint.write import write_bytes, write_text
from laminogram.errors import CheckpointError
from laminogram.tokenizers._names import Names
from laminogram.tokenizers.base import Manner, Tokenizer, surrogate

FILE = "tokenizer.model"
NEEDED = "pip install 'laminogram[sentencepiece]'"
# `normalizer_spec { add_dummy_prefix: false }` of sentencepiece_model.proto: a message that follows
# another is merged into it, so that this at the end of a model turns its leading space off.
_NO_LEADING_SPACE = b"\x1a\x02\x18\x00"


def is_installed() -> bool:
    """Whether the package that runs such models is there."""
    return find_spec("sentencepiece") is not None


class SentencePieceTokenizer(Tokenizer):
    """The bytes of a sentencepiece model, and the names that are cut out before it.

    legacy: whether a text after a name begins with the model's own leading space, as at the start;
    it is the setting of that name in tokenizer_config.json.
    """

    def __init__(self, data: bytes, manner: Manner, names: Names, *, legacy: bool = True) -> None:
        super().__init__(manner)
        self._data, self._names, self._legacy = data, names, legacy
        self._first = _processor(data)
        self._later = self._first if legacy else _processor(data + _NO_LEADING_SPACE)

    @property
    def vocab_size(self) -> int:
        return 1 + max(self._first.get_piece_size() - 1, *self._names.by_id)

    def name_of(self, token: int) -> str | None:
        if token in self._names.by_id:
            return self._names.by_id[token]
        return str(self._first.id_to_piece(token)) if self._is_piece(token) else None

    def id_of(self, name: str) -> int | None:
        if name in self._names.ids:
            return self._names.ids[name]
        found = int(self._first.piece_to_id(name))  # the unknown piece for what is none
        return found if self.name_of(found) == name else None

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        parts: list[str] = []
        run: list[int] = []
        for one in ids:
            name = self._names.by_id.get(one)
            if name is None:
                run += [one] if self._is_piece(one) else []
            elif not skip_special:
                parts += [self._text(run, bool(parts)), name]
                run = []
        return "".join([*parts, self._text(run, bool(parts))])

    def _is_piece(self, token: int) -> bool:
        return 0 <= token < int(self._first.get_piece_size())

    def _text(self, ids: list[int], later: bool) -> str:
        return str((self._later if later else self._first).decode(ids)) if ids else ""

    def _plain(self, text: str) -> list[int]:
        out: list[int] = []
        try:
            text.encode()  # what has no UTF-8 form fails further down without saying so
        except UnicodeEncodeError as error:
            raise surrogate(text) from error
        for piece, number in self._names.cut(text):
            processor = self._later if out else self._first
            out += processor.encode(piece) if number is None else [number]
        return out

    def _extended(self, tokens: Sequence[str]) -> Self:
        numbers = range(self.vocab_size, self.vocab_size + len(tokens))
        more = self._names.plus(dict(zip(tokens, numbers, strict=True)))
        return type(self)(self._data, self.manner, more, legacy=self._legacy)

    def _save_vocabulary(self, directory: Path) -> None:
        write_bytes(directory / FILE, self._data)
        write_text(directory / "added_tokens.json", json.dumps(self._names.ids, indent=2))


def read_sentencepiece(
    file: Path, manner: Manner, special: Sequence[str] = ()
) -> SentencePieceTokenizer:
    """A sentencepiece model; `special` are names that are numbered on from its last piece.

    CheckpointError where the file is damaged.
    """
    try:
        data = file.read_bytes()
        processor = _processor(data)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{file} is no readable sentencepiece model: {error}") from error
    size = int(processor.get_piece_size())
    if not size:
        raise CheckpointError(f"{file} is a sentencepiece model without pieces")
    marks = (i for i in range(size) if processor.is_control(i) or processor.is_unknown(i))
    by_id = {i: str(processor.id_to_piece(i)) for i in marks}
    by_id |= dict(enumerate(special, size)) | dict(manner.settings.added)
    words = frozenset(name for name in special if name.isalpha())
    names = Names({name: number for number, name in by_id.items()}, words)
    legacy = manner.settings.flag("legacy")
    return SentencePieceTokenizer(data, manner, names, legacy=legacy is not False)


def _processor(data: bytes) -> Any:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_proto=data)
