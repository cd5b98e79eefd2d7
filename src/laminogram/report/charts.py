"""Pictures of lines and coloured tables: what several studies hand to one drawing of the page.

A line may have an interval at each place; a table may have a colour behind each cell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from laminogram.report.figures import number
from laminogram.report.page_tables import table
from laminogram.report.picture import Picture, Tables, packed

KINDS = ("linear", "log", "symlog", "probability")
Columns = Mapping[str, Sequence[Any]]


def estimate(value: Any, low: Any, high: Any, digits: int = 3) -> str:
    """A number with its interval: "0.012 [0.010, 0.014]"; alone where it has none."""
    if _missing(low) or _missing(high):
        return number(None if _missing(value) else float(value), digits)
    ends = f"{number(float(low), digits)}, {number(float(high), digits)}"
    return f"{number(float(value), digits)} [{ends}]"


def series(
    name: str, values: Sequence[float], low: Sequence[float] = (), high: Sequence[float] = ()
) -> dict[str, Any]:
    """A line, NaN where it has no value, with the ends of its intervals where they are given."""
    made = {"name": name, "values": packed(np.asarray(values, dtype=float))}
    if len(low) and np.isfinite(np.asarray(low, dtype=float)).any():
        made |= {"low": packed(np.asarray(low, dtype=float))}
        made |= {"high": packed(np.asarray(high, dtype=float))}
    return made


def chart(title: str, lines: Sequence[Mapping[str, Any]], kind: str = "linear") -> dict[str, Any]:
    """A chart of lines over the labels of its picture."""
    return {"title": title, "kind": kind, "series": list(lines)}


def grid(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    places: Sequence[Sequence[float | None]] | None = None,
    words: Sequence[int] = (),
) -> dict[str, Any]:
    """A table whose cells but the first of each row have colours: places from 0 to 1, None for
    none."""
    made = table(caption, columns, rows, words)
    empty: list[list[float | None]] = [[None] * (len(columns) - 1) for _ in rows]
    return made | {"places": empty if places is None else [list(row) for row in places]}


def shares(values: Sequence[Sequence[float]]) -> list[list[float | None]]:
    """Values as places for `grid`: their share of the largest; None where one is not finite."""
    known = [abs(x) for row in values for x in row if math.isfinite(x)]
    most = max(known, default=0.0)
    return [
        [(abs(x) / most if most else 0.0) if math.isfinite(x) else None for x in row]
        for row in values
    ]


def charts_picture(
    kind: str,
    title: str,
    model: str,
    caption: str,
    alt: str,
    tables: Tables,
    *,
    manifest: Mapping[str, Any],
    charts: Sequence[Mapping[str, Any]] = (),
    grids: Sequence[Mapping[str, Any]] = (),
    labels: Sequence[str] = (),
    axis: str = "layer",
    notes: Sequence[str] = (),
) -> Picture:
    """The picture, drawn as lines with intervals and coloured tables; its tables stand beside the
    page, and the first is what the page saves."""
    return Picture(
        kind=kind,
        title=title,
        caption=caption,
        alt=alt,
        model=model,
        data={
            "labels": list(labels),
            "axis": axis,
            "charts": list(charts),
            "grids": list(grids),
        },
        tables=tables,
        notes=tuple(notes),
        manifest=manifest,
        csv=_csv(next(iter(tables.values()), {})),
    )


def some(columns: Columns, **wanted: Any) -> dict[str, list[Any]]:
    """The lines of a table in which columns have these values."""
    count = len(next(iter(columns.values()), []))
    kept = [i for i in range(count) if all(columns[k][i] == v for k, v in wanted.items())]
    return {name: [values[i] for i in kept] for name, values in columns.items()}


def lines_of(columns: Columns) -> list[dict[str, Any]]:
    """A table as one dictionary a line."""
    names = list(columns)
    return [dict(zip(names, line, strict=True)) for line in zip(*columns.values(), strict=True)]


def _csv(columns: Columns) -> list[list[Any]]:
    rows = [[_saved(values[i]) for values in columns.values()] for i in range(_length(columns))]
    return [list(columns), *rows]


def _length(columns: Columns) -> int:
    return len(next(iter(columns.values()), []))


def _saved(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
