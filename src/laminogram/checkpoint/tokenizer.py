"""Text to token ids and back, from a `tokenizer.json`; nothing a checkpoint ships is executed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from laminogram.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Inner


class Tokenizer:
    """A tokenizer with the ids that its model begins and ends texts with."""

    def __init__(self, inner: Inner, *, bos: int | None = None, eos: tuple[int, ...] = ()) -> None:
        self.inner, self.bos, self.eos = inner, bos, eos

    @property
    def vocab_size(self) -> int:
        """How many ids there are, added tokens included."""
        return self.inner.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, bos: bool | None = None) -> list[int]:
        """The ids of a text.

        `bos` None follows the file (its own post-processing); True begins with the bos id exactly
        once, False never does. CheckpointError where True is asked and there is no bos id.
        """
        if bos is None:
            return list(self.inner.encode(text).ids)
        ids = list(self.inner.encode(text, add_special_tokens=False).ids)
        if not bos:
            return ids
        if self.bos is None:
            raise CheckpointError("the model names no bos token; encode with bos=False")
        return ids if ids[:1] == [self.bos] else [self.bos, *ids]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """The text of ids; bytes that are no whole character become U+FFFD."""
        return str(self.inner.decode(list(ids), skip_special_tokens=skip_special))

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Each id's own text, for labels: what it decodes to alone, else its name in the file."""
        texts = []
        for one in ids:
            text = self.inner.decode([one], skip_special_tokens=False)
            name = self.inner.id_to_token(one)
            texts.append(text if text and "�" not in text else name or f"<{one}>")
        return texts


def load_tokenizer(
    path: str | Path, *, bos: int | None = None, eos: tuple[int, ...] = ()
) -> Tokenizer | None:
    """The tokenizer of a model's directory (or of a file's), None where it has none.

    CheckpointError where tokenizer.json exists and cannot be read.
    """
    from tokenizers import Tokenizer as Inner

    folder = Path(path)
    file = (folder if folder.is_dir() else folder.parent) / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        inner = Inner.from_file(str(file))
    # The binding raises bare Exception for every kind of malformed file.
    except Exception as error:
        raise CheckpointError(f"{file} is no readable tokenizer: {error}") from error
    inner.no_padding()
    inner.no_truncation()
    return Tokenizer(inner, bos=bos, eos=eos)
