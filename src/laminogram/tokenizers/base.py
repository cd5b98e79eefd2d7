"""What every tokenizer does, whatever file it was read from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from laminogram.errors import CheckpointError, TokenError
from laminogram.tokenizers.chat import ChatTemplate
from laminogram.tokenizers.settings import Settings

UNKNOWN = "�"


@dataclass(frozen=True)
class Manner:
    """How a model's texts begin and end, and how its chats are written.

    bos, eos: the ids that begin and end a text. prefix: the tokens, by name, that every text begins
    with unless asked otherwise; None leaves that to the tokenizer's own file. settings: what the
    files beside the vocabulary say. template: how a chat becomes one text, and whether that
    text has what texts begin with (`template_begins`). turn_ends: texts that
    end the assistant's turn, where no eos id does.
    """

    bos: int | None = None
    eos: tuple[int, ...] = ()
    prefix: tuple[str, ...] | None = None
    settings: Settings = field(default_factory=Settings)
    template: ChatTemplate | None = None
    template_begins: bool = True
    turn_ends: tuple[str, ...] = ()


class Tokenizer(ABC):
    """A tokenizer with the ids that its model begins and ends texts with."""

    def __init__(self, manner: Manner | None = None) -> None:
        self.manner = manner or Manner()

    # What a format says

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """How many ids there are, added tokens included: one more than the largest."""

    @abstractmethod
    def name_of(self, token: int) -> str | None:
        """The name of a token in its file; None for an id that does not exist."""

    @abstractmethod
    def id_of(self, name: str) -> int | None:
        """The id of the token of this name; None where there is none."""

    @abstractmethod
    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """The text of ids; bytes that are no whole character become U+FFFD, and ids that do not
        exist have no text."""

    @abstractmethod
    def _plain(self, text: str) -> list[int]:
        """The ids of a text alone, nothing before or after it."""

    @abstractmethod
    def _extended(self, tokens: Sequence[str]) -> Self:
        """A copy with further tokens, numbered on from the last; names are checked already."""

    @abstractmethod
    def _save_vocabulary(self, directory: Path) -> None:
        """Write the files that the format's reader reads."""

    # What all share

    @property
    def bos(self) -> int | None:
        """The id that begins a text; None where the model names none."""
        if self.manner.bos is not None:
            return self.manner.bos
        name = self.manner.settings.special.get("bos_token")
        return None if name is None else self.id_of(name)

    @property
    def eos(self) -> tuple[int, ...]:
        """The ids that end a text."""
        if self.manner.eos:
            return self.manner.eos
        name = self.manner.settings.special.get("eos_token")
        found = None if name is None else self.id_of(name)
        return () if found is None else (found,)

    @property
    def prefix(self) -> tuple[int, ...]:
        """The ids that every text begins with unless asked otherwise; empty where BOS is off."""
        return tuple(self._id(name) for name in self.manner.prefix or ())

    @property
    def turn_ends(self) -> tuple[str, ...]:
        """Texts that end the assistant's turn in a chat, where no eos id does: stop strings."""
        return self.manner.turn_ends

    def encode(self, text: str, bos: bool | None = None) -> list[int]:
        """The ids of a text.

        `bos` None follows the model's habit (`prefix`); True begins with the bos id exactly once,
        False begins with nothing. CheckpointError where True is asked and there is no bos id,
        TokenError for a text that is no Unicode (a lone surrogate).
        """
        if bos is None:
            return self._habitual(text)
        ids = self._plain(text)
        if not bos:
            return ids
        if self.bos is None:
            raise CheckpointError("the model names no bos token; encode with bos=False")
        return ids if ids[:1] == [self.bos] else [self.bos, *ids]

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Each id's own text, for labels: what it decodes to alone, else its name in the file."""
        texts = []
        for one in ids:
            text = self.decode([one])
            texts.append(text if text and UNKNOWN not in text else self.name_of(one) or f"<{one}>")
        return texts

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Messages as the one text that the model was trained on, by its own template.

        messages: `{"role": "user", "content": ...}` and so on. add_generation_prompt ends the text
        where the assistant's answer begins. variables: further names that the template reads
        (`tools`, `enable_thinking`). `chat_ids` gives its ids.
        TokenError where there is no template, or where it refuses the messages.
        """
        if self.manner.template is None:
            raise TokenError("the model has no chat template: write its prompt as plain text")
        return self.manner.template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            **{**self.manner.settings.special, **variables},
        )

    def chat_ids(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """The token ids of `chat`, with what texts begin with exactly once."""
        text = self.chat(messages, **options)
        return self.encode(text, bos=False if self.manner.template_begins else None)

    def with_added(self, tokens: Iterable[str]) -> Self:
        """A copy in which each of these texts is one token, numbered on from `vocab_size`.

        The model needs as many rows (it may have spare ones). TokenError for an empty or repeated
        text, and for one that is a token already.
        """
        names = list(tokens)
        for place, name in enumerate(names):
            there = self.id_of(name)
            if not name or name in names[:place]:
                raise TokenError(f"{name!r} cannot be added: it is empty or named twice")
            if there is not None:
                raise TokenError(f"{name!r} cannot be added: it is token {there} already")
        return self._extended(names) if names else self

    def save(self, directory: str | Path) -> None:
        """Write the tokenizer as files that `load_tokenizer` reads back; each is written whole or
        not at all."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        self._save_vocabulary(folder)
        self.manner.settings.save(folder)

    def _habitual(self, text: str) -> list[int]:
        return [*self.prefix, *self._plain(text)]

    def _id(self, name: str) -> int:
        found = self.id_of(name)
        if found is None:
            raise CheckpointError(
                f"texts of this model begin with {name!r}, which is no token of its tokenizer"
            )
        return found


def surrogate(text: str) -> TokenError:
    """The error for a text that has no UTF-8 form."""
    place = next((i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff"), 0)
    return TokenError(
        f"the text is no Unicode: character {place} is the lone surrogate {text[place]!a}"
    )
