"""A condition as text: a model, and what is done to it.

    tiny-llama
    tiny-llama@precision=int8
    tiny-llama@plan=0-2,4-5@edit=zero:ffn_out:layers=1:channels=3,17
    tiny-llama@bos=on
    runs/step-2000@text=other.txt

Each `@key=value` is one of `KEYS`; `edit` may come several times. An edit is an operation, `=` and
its number where it takes one, then parts joined by colons: the site, and `name=numbers` for
`layers`, `steps`, `heads`, `experts`, `channels`, `positions`, or `dose=number`. Two operations are
on weights: `entry=FACTOR:PARAMETER:ROW:COLUMN` and `rotate=SEED`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from laminogram.errors import ConfigError, EditError
from laminogram.probe import edits
from laminogram.probe.edits import Edit
from laminogram.probe.subject import Subject
from laminogram.probe.weight_edits import WeightEdit

KEYS = ("precision", "plan", "kv", "edit", "bos", "text")
_KEY = re.compile(r"@(\w+)=")
_SWITCH = {"on": True, "off": False}
_SELECTIONS = ("layers", "steps", "heads", "experts", "channels", "positions")

_ENTRIES: dict[str, tuple[bool, Callable[..., Edit]]] = {
    "zero": (False, lambda site, _, **where: edits.zero(site, **where)),
    "set": (True, lambda site, n, **where: edits.set_to(site, n, **where)),
    "add": (True, lambda site, n, **where: edits.add(site, n, **where)),
    "scale": (True, lambda site, n, **where: edits.scale(site, n, **where)),
    "clip": (True, lambda site, n, **where: edits.winsorise(site, bound=n, **where)),
    "winsorise": (True, lambda site, n, **where: edits.winsorise(site, quantile=n, **where)),
    "sign": (True, lambda site, n, **where: edits.sign(site, n, **where)),
    "normalise": (True, lambda site, n, **where: edits.normalise(site, rms=n, **where)),
}
"""Operation -> (whether it takes a number, what makes it)."""
OPERATIONS = (*_ENTRIES, "entry", "rotate")


@dataclass(frozen=True)
class Condition:
    """A model under conditions: what `parse` reads and `str` writes.

    bos: None follows the tokenizer's habit. text_file: documents of its own, None for those that
    all conditions read.
    """

    model: str
    precision: str | None = None
    plan: str | None = None
    kv: str | None = None
    edits: tuple[str, ...] = ()
    bos: bool | None = None
    text_file: str | None = None

    @classmethod
    def parse(cls, text: str) -> Condition:
        """The condition of a text; ConfigError names what is wrong with it and what exists."""
        model, *pairs = _KEY.split(text.strip())
        if not model:
            raise ConfigError(f"the condition {text!r} begins with no model; write MODEL@key=value")
        found: dict[str, Any] = {}
        chosen: list[str] = []
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if key not in KEYS:
                known = ", ".join(KEYS)
                raise ConfigError(f"condition {text!r}: no key {key!r}; there are {known}")
            if not value or (key in found):
                said = "is given twice" if value else "is empty"
                raise ConfigError(f"condition {text!r}: {key} {said}")
            if key == "edit":
                parse_edit(value)
                chosen.append(value)
            elif key == "bos":
                if value not in _SWITCH:
                    raise ConfigError(f"condition {text!r}: bos is on or off, not {value!r}")
                found["bos"] = _SWITCH[value]
            else:
                found["text_file" if key == "text" else key] = value
        return cls(model, edits=tuple(chosen), **found)

    def __str__(self) -> str:
        """The condition in the form that `parse` reads."""
        parts = [("precision", self.precision), ("plan", self.plan), ("kv", self.kv)]
        parts += [("edit", one) for one in self.edits]
        if self.bos is not None:
            parts.append(("bos", "on" if self.bos else "off"))
        parts.append(("text", self.text_file))
        return self.model + "".join(f"@{key}={value}" for key, value in parts if value is not None)

    def of(self, view: Subject) -> Subject:
        """A view of the model under this condition; PlanError, SiteError, EditError, ConfigError
        say what does not exist."""
        given = {"precision": self.precision, "plan": self.plan, "kv": self.kv}
        asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        made = [parse_edit(one) for one in self.edits]
        return view.using(edits=made, **asked) if asked or made else view


def parse_edit(text: str) -> Edit | WeightEdit:
    """The edit of a text such as `scale=0.5:ffn_out:layers=0-3:channels=7`; EditError names what
    is wrong and what exists."""
    first, *parts = text.split(":")
    name, _, number = first.partition("=")
    if name == "rotate":
        return edits.weights.rotate(seed=int(_number(number or "0", text)))
    if name == "entry":
        return _entry(number, parts, text)
    if name not in _ENTRIES:
        raise EditError(f"edit {text!r}: no operation {name!r}; there are {', '.join(OPERATIONS)}")
    takes, make = _ENTRIES[name]
    if takes != bool(number):
        form = f"{name}=NUMBER:SITE" if takes else f"{name}:SITE"
        raise EditError(f"edit {text!r}: write {form}")
    if not parts or "=" in parts[0]:
        raise EditError(f"edit {text!r} names no site; write {first}:SITE")
    where: dict[str, Any] = {}
    for part in parts[1:]:
        key, _, value = part.partition("=")
        if key not in (*_SELECTIONS, "dose"):
            known = ", ".join((*_SELECTIONS, "dose"))
            raise EditError(f"edit {text!r}: no selection {key!r}; there are {known}")
        where[key] = _number(value, text) if key == "dose" else numbers(value, text)
    return make(parts[0], _number(number, text) if takes else 0.0, **where)


def _entry(number: str, parts: Sequence[str], text: str) -> WeightEdit:
    if len(parts) not in (2, 3) or not number:
        raise EditError(f"edit {text!r}: write entry=FACTOR:PARAMETER:ROW:COLUMN")
    row, *column = (int(_number(one, text)) for one in parts[1:])
    factor = _number(number, text)
    return edits.weights.scale_entry(parts[0], row, *column, factor=factor)


def numbers(text: str, of: str) -> list[int]:
    """`0-3,7` as [0, 1, 2, 3, 7]; EditError, naming the edit, for anything else."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(-?\d{1,7})(?:-(\d{1,7}))?", part.strip())
        if match is None:
            raise EditError(f"edit {of!r}: {part!r} is no number; write 0-3,7")
        first = int(match[1])
        found += range(first, int(match[2] or first) + 1)
    return found


def _number(text: str, of: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise EditError(f"edit {of!r}: {text!r} is no number") from None
