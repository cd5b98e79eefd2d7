"""Tokenizers that the `tokenizers` library runs: tokenizer.json, and what is converted into it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from laminogram.checkpoint.write import write_text
from laminogram.errors import CheckpointError
from laminogram.tokenizers.base import Manner, Tokenizer, surrogate

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Inner

FILE = "tokenizer.json"


class FastTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library, `inner`; its post-processing is its habit unless
    the manner names a prefix.

    complete: whether the files that it was read from say what texts begin with.
    """

    def __init__(
        self, inner: Inner, manner: Manner | None = None, *, complete: bool = True
    ) -> None:
        super().__init__(manner)
        self.inner, self.complete = inner, complete

    @cached_property
    def vocab_size(self) -> int:
        # Ids may have gaps, so the count is not enough.
        return 1 + max(self.inner.get_vocab(with_added_tokens=True).values(), default=-1)

    @property
    def prefix(self) -> tuple[int, ...]:
        if self.manner.prefix is not None:
            return super().prefix
        plain, whole = self._plain("a"), self.inner.encode("a").ids
        starts = range(len(whole) - len(plain) + 1)
        return tuple(whole[: next((i for i in starts if whole[i:][: len(plain)] == plain), 0)])

    def name_of(self, token: int) -> str | None:
        return self.inner.id_to_token(token) if 0 <= token < 1 << 32 else None

    def id_of(self, name: str) -> int | None:
        return self.inner.token_to_id(name)

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        return str(self.inner.decode(list(ids), skip_special_tokens=skip_special))

    def _plain(self, text: str) -> list[int]:
        try:
            return list(self.inner.encode(text, add_special_tokens=False).ids)
        except TypeError as error:
            raise surrogate(text) from error

    def _habitual(self, text: str) -> list[int]:
        if self.manner.prefix is not None:
            return super()._habitual(text)
        try:
            return list(self.inner.encode(text).ids)
        except TypeError as error:
            raise surrogate(text) from error

    def encode_pair(
        self, first: str, second: str | None = None, longest: int | None = None
    ) -> tuple[list[int], list[int]]:
        """The ids and token types of one text, or of two as the file joins them.

        Beyond `longest` tokens in all, the end of the longer text is left out, token by token.
        """
        if longest is not None:
            self.inner.enable_truncation(longest, strategy="longest_first")
        try:
            joined = self.inner.encode(first, second)
        except TypeError as error:
            raise surrogate(first) from error
        finally:
            self.inner.no_truncation()
        return list(joined.ids), list(joined.type_ids)

    def _extended(self, tokens: Sequence[str]) -> Self:
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Inner

        inner = Inner.from_str(self.inner.to_str())
        inner.add_tokens([AddedToken(name, normalized=False) for name in tokens])
        return type(self)(inner, self.manner, complete=self.complete)

    def _save_vocabulary(self, directory: Path) -> None:
        from tokenizers import Tokenizer as Inner
        from tokenizers import processors

        inner = self.inner
        if self.manner.prefix:  # what files beside this one say is said in it
            inner = Inner.from_str(inner.to_str())
            inner.post_processor = processors.TemplateProcessing(
                single=[*self.manner.prefix, "$A"],
                special_tokens=[(name, self._id(name)) for name in self.manner.prefix],
            )
        write_text(directory / FILE, inner.to_str())


def read_json(file: Path, manner: Manner) -> FastTokenizer:
    """A tokenizer.json; CheckpointError where it is damaged."""
    from tokenizers import Tokenizer as Inner

    try:
        inner = Inner.from_file(str(file))
    # The binding raises bare Exception for every kind of malformed file.
    except Exception as error:
        raise CheckpointError(f"{file} is no readable tokenizer: {error}") from error
    inner.no_padding()
    inner.no_truncation()
    return FastTokenizer(inner, manner)
