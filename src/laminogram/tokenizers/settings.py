"""What the files beside a vocabulary say: names of special tokens, BOS, chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laminogram.checkpoint.write import write_text
from laminogram.errors import CheckpointError

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


@dataclass(frozen=True)
class Settings:
    """Read from tokenizer_config.json, special_tokens_map.json, added_tokens.json and
    chat_template.jinja.

    special: names of the special tokens by role (`bos_token`: "<s>"). added: further tokens by id.
    template: the chat template's text. source: tokenizer_config.json as it stands.
    """

    special: Mapping[str, str] = field(default_factory=dict)
    added: Mapping[int, str] = field(default_factory=dict)
    template: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def flag(self, name: str) -> bool | None:
        """A field that is true or false; None where it is absent or neither."""
        value = self.source.get(name)
        return value if isinstance(value, bool) else None

    def save(self, folder: Path) -> None:
        """Write tokenizer_config.json and, where there is one, chat_template.jinja."""
        # The tokens added to the vocabulary stand in the vocabulary's own files.
        source = {key: value for key, value in self.source.items() if key != "added_tokens_decoder"}
        source.update(self.special)
        source.pop("chat_template", None)
        if source:
            write_text(folder / CONFIG, json.dumps(source, indent=2, ensure_ascii=False) + "\n")
        if self.template is not None:
            write_text(folder / TEMPLATE, self.template)


def read_settings(folder: Path) -> Settings:
    """The settings of a model's folder; CheckpointError names a file that cannot be read."""
    source = read_object(folder / CONFIG)
    special = {**read_object(folder / "special_tokens_map.json"), **source}
    names = {role: _text(special.get(role)) for role in _NAMES}
    return Settings(
        special={role: name for role, name in names.items() if name is not None},
        added=_added(folder, source),
        template=_template(folder, source),
        source=source,
    )


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object; empty where there is no file."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is no readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds a {type(value).__name__}; expected an object")
    return value


def _text(value: Any) -> str | None:
    """A token is named by its text, or described by an object with its text in `content`."""
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) and value else None


def _added(folder: Path, source: Mapping[str, Any]) -> dict[int, str]:
    described = source.get("added_tokens_decoder") or {}
    listed = read_object(folder / "added_tokens.json")
    added: dict[int, str] = {}
    pairs = [(number, _text(value)) for number, value in dict(described).items()]
    for number, name in [*pairs, *((number, name) for name, number in listed.items())]:
        if name is None or not str(number).isdecimal():
            raise CheckpointError(f"{folder}: added token {name!r} with id {number!r} is no token")
        if added.setdefault(int(number), name) != name:
            raise CheckpointError(
                f"{folder}: id {number} is both {added[int(number)]!r} and {name!r} "
                f"({CONFIG}, added_tokens.json)"
            )
    return dict(sorted(added.items()))


def _template(folder: Path, source: Mapping[str, Any]) -> str | None:
    file = folder / TEMPLATE
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{file} is no readable text: {error}") from error
    found = source.get("chat_template")
    if isinstance(found, list):  # several by name, of which one is the default
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, Mapping)}
        found = named.get("default")
    return found if isinstance(found, str) else None
