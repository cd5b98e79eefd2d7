"""Chats as text, by a checkpoint's own Jinja template, in a sandbox and within bounds.

A template is a program that came with the weights. It runs in Jinja's immutable sandbox, as in
transformers, whose text it gives; and it cannot run or grow for ever (see `bounds`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from laminogram.errors import ConfigError, TokenError


class ChatTemplate:
    """A chat template by its text; compiled when first used."""

    def __init__(self, source: str) -> None:
        self.source = source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text of a chat.

        messages: one mapping a turn, with `role` and whatever else the template reads, of JSON
        values. variables: further names for the template. TokenError where a message is none, where
        the template refuses the chat, and where it is broken or exceeds its bounds.
        """
        from jinja2.exceptions import TemplateError

        from laminogram.tokenizers.bounds import bounded

        for place, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise TokenError(
                    f"message {place} of a chat is no mapping with a role: {message!r}"
                )
        given = {"tools": None, "documents": None, **variables}
        try:
            with bounded():
                return self._compiled.render(
                    messages=_plain([dict(message) for message in messages]),
                    add_generation_prompt=add_generation_prompt,
                    **{name: _plain(value) for name, value in given.items()},
                )
        except TokenError:
            raise
        except TemplateError as error:
            raise TokenError(f"the chat template refuses this chat: {error}") from error
        # A template is a foreign program: whatever it raises is its failure, not ours.
        except Exception as error:
            kind = type(error).__name__
            raise TokenError(f"the chat template fails on this chat: {kind}: {error}") from error

    @cached_property
    def _compiled(self) -> Any:
        try:
            from laminogram.tokenizers.bounds import BoundedEnvironment
        except ImportError as error:
            raise ConfigError("chat templates need jinja2: pip install jinja2") from error
        environment = BoundedEnvironment()
        environment.globals.update(raise_exception=_refuse, strftime_now=_now)
        environment.add_filter("tojson", _to_json)
        return environment.compiled(self.source)


def _plain(value: Any) -> Any:
    """A copy made of JSON values alone: what else an object can do is no template's business."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TokenError(f"a chat holds JSON values, not a {type(value).__name__}")


def _refuse(message: str) -> None:
    raise TokenError(f"the chat template refuses this chat: {message}")


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes for HTML, which no model was trained on.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
