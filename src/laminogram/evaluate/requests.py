"""What a task asks of a model, as values: made once, scored under any number of conditions.

A request is text alone; which tokens it is, is the model's matter (`evaluate.encode`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

from laminogram.errors import ConfigError
from laminogram.probe.store import StoreError, write_json

Kind = Literal["loglikelihood", "loglikelihood_rolling", "generate_until"]
"""How lm-evaluation-harness names them: how likely is a text after another, how likely is a whole
text, what comes after a text."""

_FORMAT = "laminogram-requests"


@dataclass(frozen=True)
class Request:
    """One question to a model.

    context: what is given; of `loglikelihood_rolling` the text itself. continuation: what is
    scored. until, max_new_tokens: where generation ends. document, index: whose request it is, and
    which of that document's.
    """

    kind: Kind
    context: str
    continuation: str = ""
    until: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    document: int = 0
    index: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(
                f"a request is of kind {self.kind!r}; there are {', '.join(get_args(Kind))}"
            )


@dataclass(frozen=True)
class Requests:
    """All requests of one task, of one kind, in the order of their documents."""

    task: str
    version: str
    items: tuple[Request, ...]

    def __post_init__(self) -> None:
        if not self.items:
            raise ConfigError(f"{self.task} asks nothing: it has no document")
        kinds = sorted({request.kind for request in self.items})
        if len(kinds) > 1:
            raise ConfigError(f"{self.task} mixes kinds of requests: {', '.join(kinds)}")

    @property
    def kind(self) -> Kind:
        """What all of them ask."""
        return self.items[0].kind

    @property
    def documents(self) -> int:
        """How many documents they belong to."""
        return len({request.document for request in self.items})

    @cached_property
    def hash(self) -> str:
        """BLAKE2b, 32 hex digits, of every text in order: equal for equal requests."""
        digest = blake2b(digest_size=16)
        for request in self.items:
            digest.update(json.dumps(asdict(request), sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.items)

    def save(self, path: str | PathLike[str]) -> None:
        """Write them as JSON, whole or not at all."""
        items = [asdict(request) for request in self.items]
        facts = {"format": _FORMAT, "task": self.task, "version": self.version, "items": items}
        write_json(Path(path), facts)


def load_requests(path: str | PathLike[str]) -> Requests:
    """Read what `Requests.save` wrote. Raises StoreError."""
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read as requests: {error}") from error
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
        raise StoreError(f"{path} holds no requests: {_FORMAT!r} was expected")
    try:
        items = tuple(_request(one) for one in facts["items"])
        return Requests(str(facts["task"]), str(facts["version"]), items)
    except (KeyError, TypeError) as error:
        raise StoreError(f"{path} holds damaged requests: {error}") from error


def _request(fields: dict[str, Any]) -> Request:
    return Request(**{**fields, "until": tuple(fields.get("until", ()))})
