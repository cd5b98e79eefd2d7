"""Pictures of lines and tables as text: every table, and each line as a row of letters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from laminogram.report.console import Page, number
from laminogram.report.payload import decode_array
from laminogram.report.picture import Picture
from laminogram.report.pictures import compare, outliers
from laminogram.studies.compare.result import Comparison
from laminogram.studies.outlier_report.report import OutlierReport


def print_comparison(result: Comparison, console: Console | None = None) -> None:
    """Outputs, states and distributions of every condition."""
    _print(compare.pictures(result), console)


def print_outliers(result: OutlierReport, console: Console | None = None) -> None:
    """Every part of the report."""
    _print(outliers.pictures(result), console)


def _print(pictures: list[Picture], console: Console | None) -> None:
    page = Page(console)
    for picture in pictures:
        page.title(f"{picture.title} ({picture.model})")
        page.say(picture.alt)
        for grid in picture.data["grids"]:
            page.say(f"{grid['caption']}:")
            page.table(_heads(grid), grid["rows"])
        for chart in picture.data["charts"]:
            _chart(page, chart, picture.data["axis"])
        for note in picture.notes:
            page.say(note)
        page.say("")


def _heads(grid: Mapping[str, Any]) -> list[str]:
    """The columns, those of words marked as such."""
    return [name + ":" * (place in grid["words"]) for place, name in enumerate(grid["columns"])]


def _chart(page: Page, chart: Mapping[str, Any], axis: str) -> None:
    rows = []
    for line in chart["series"]:
        values = decode_array(line["values"])
        known = values[values == values]
        ends = (
            [number(float(end)) for end in (known.min(), known.max())] if known.size else ["-"] * 2
        )
        rows.append([line["name"], page.spark(values), *ends])
    page.table([chart["title"], f"by {axis}:", "least", "most"], rows)
