"""A picture: what one study looks like, as data that the page's own script draws.

Each file of `report/pictures/` says how one kind of result becomes one: `picture(result)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from laminogram.errors import ConfigError
from laminogram.report.figures import cell_text, quoted
from laminogram.report.payload import encode_array

Tables = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of a page.

    kind: the file of `report/pictures` and the module of `viewer/` that draw it; title, caption and
    notes: plain text beside it; alt: what it shows, in sentences, for those who do not see it;
    data: what is drawn, plain JSON data with packed arrays; tables: the numbers, table -> column ->
    values, as `report.tables.write_table` takes them; manifest: what ran; csv: the rows, the head
    first, that the page saves, where it does not make them from what it draws.
    """

    kind: str
    title: str
    caption: str
    alt: str
    model: str
    data: Mapping[str, Any]
    tables: Tables
    notes: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    csv: Sequence[Sequence[Any]] | None = None

    @classmethod
    def of(cls, result: Any, *, data: Mapping[str, Any], **told: Any) -> Picture:
        """Return the picture of a study's result: its model, tokens, tables and manifest.

        `data` is joined with the result's labels and tokens; `told` are the other fields.
        """
        return cls(
            model=result.model,
            data={"labels": list(result.labels), "tokens": list(result.tokens), **data},
            tables=result.tables(),
            tokens=result.tokens,
            manifest=result.manifest,
            **told,
        )


def kinds() -> tuple[str, ...]:
    """Return the kinds of pictures there are, sorted: the files of `report/pictures`."""
    from laminogram.report import pictures

    return tuple(sorted(module.name for module in pkgutil.iter_modules(pictures.__path__)))


def _module(kind: str) -> ModuleType:
    if kind not in kinds():
        raise ConfigError(f"no picture {kind!r}; there are {', '.join(kinds())}")
    return importlib.import_module(f"laminogram.report.pictures.{kind}")


def picture_of(result: Any) -> Picture:
    """Return the picture of a study's result; `ConfigError` for what no picture is of."""
    for kind in kinds():
        module = _module(kind)
        if type(result).__name__ == module.RESULT:
            made: Picture = module.picture(result)
            return made
    raise ConfigError(f"there is no picture of a {type(result).__name__}; pictures: {kinds()}")


def packed(x: npt.ArrayLike) -> dict[str, Any]:
    """Pack numbers as float32, which holds whole numbers up to 16,777,216 exactly."""
    return encode_array(np.asarray(x), "f4")


def plain(text: str) -> str:
    """Return a token's text as it can stand in a sentence."""
    return quoted(text if len(text) <= 40 else f"{text[:39]}…")


def dictionary(
    ids: npt.NDArray[Any], texts: Sequence[Any]
) -> tuple[list[dict[str, Any]], npt.NDArray[np.int64]]:
    """Return the distinct tokens of nested `texts`, and where each of `ids` stands among them.

    A token is its id, its text, and its name where room is short.
    """
    flat = [int(one) for one in ids.ravel()]
    words: dict[int, str] = {}
    for one, text in zip(flat, _flat(texts), strict=True):
        words.setdefault(one, text)
    order = {one: place for place, one in enumerate(words)}
    places = np.array([order[one] for one in flat], dtype=np.int64).reshape(ids.shape)
    named = [{"id": one, "text": text, "name": cell_text(text)} for one, text in words.items()]
    return named, places


def _flat(texts: Sequence[Any]) -> Iterable[str]:
    for one in texts:
        if isinstance(one, str):
            yield one
        else:
            yield from _flat(one)
