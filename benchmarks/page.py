"""The tables of docs/speed.md, made from benchmarks/results/*.json.

    python -m benchmarks.page

Text between `<!-- table: NAME -->` and `<!-- end -->` is replaced; the rest of the page is written
by hand.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "speed.md", ROOT / "benchmarks" / "results"
_TABLE = re.compile(r"<!-- table: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
_HEADER = (
    "| row | side | median ms | rate | ours / it | quarter points | at most |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)
Record = dict[str, Any]


def filled(page: str, results: dict[str, Record]) -> str:
    """The page with every table made anew. KeyError where a table's results do not exist."""
    return _TABLE.sub(lambda found: _block(found[1], results[found[1]]), page)


def _block(name: str, results: Record) -> str:
    table = _growth(results["tables"]) if "tables" in results else _table(results["rows"])
    parts = [f"<!-- table: {name} -->", _about(results["about"]), "", *table]
    skipped = [f"{row}: {why}" for row, why in results.get("skipped", {}).items()]
    if skipped:
        parts += ["", f"Not run here: {'; '.join(skipped)}."]
    return "\n".join([*parts, "<!-- end -->"])


def _about(about: Record) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    threads = f", {about['threads']} threads" if about["threads"] else ""
    return f"{about['machine']}{threads}; Python {about['python']}, {versions}; {about['date']}."


def _table(rows: dict[str, Record]) -> Iterator[str]:
    yield from _HEADER
    for name, record in rows.items():
        yield from _lines(name, record)


def _lines(name: str, record: Record) -> Iterator[str]:
    """Ours first, then each peer, then the limit."""
    ours, seconds = record["ours"], dict(record["median_s"])
    order = [ours, *(side for side in seconds if side != ours)]
    if record["limit_s"]:
        order.append("limit")
        seconds["limit"] = record["limit_s"]
    for side in order:
        cells = ["" if side != ours else name]
        cells.append(f"limit: {record['limit_is']}" if side == "limit" else side)
        cells.append(_number(1e3 * seconds[side]))
        cells.append(_rate(record["work"], seconds[side]))
        cells += ["", "", ""] if side == ours else _compared(side, record)
        yield f"| {' | '.join(cells)} |"
    notes = "; ".join(f"{key}: {value}" for key, value in record["notes"].items())
    if notes:
        yield f"| | {notes} | | | | | |"


def _compared(side: str, record: Record) -> list[str]:
    ratio, target = record["ratio"][side], record["targets"].get(side)
    span = record["ratio_range"].get(side)
    if target is None:
        verdict = ""
    else:
        verdict = f"{target:.2f}" if ratio <= target else f"**{target:.2f}, missed**"
    return [f"{ratio:.2f}", f"{span[0]:.2f} to {span[1]:.2f}" if span else "", verdict]


def _growth(tables: list[Record]) -> Iterator[str]:
    """A line for each table of `benchmarks.growth`: milliseconds and, in brackets, by how much they
    are more than at the size before; below a sweep its layer calls alike."""
    most = max(len(table["sizes"]) for table in tables)
    columns = ["ms", "sizes", "first", *(f"x {1 << power}" for power in range(1, most))]
    yield f"| {' | '.join(columns)} |"
    yield f"| {' | '.join(['---'] * len(columns))} |"
    for table in tables:
        sizes = f"{table['by']}: {table['sizes'][0]:,} to {table['sizes'][-1]:,}"
        milliseconds = [1e3 * seconds for seconds in table["median_s"]]
        yield f"| {' | '.join([table['what'], sizes, *_grown(milliseconds, most, _number)])} |"
        if table["layer_calls"]:
            calls = _grown(table["layer_calls"], most, "{:,g}".format)
            yield f"| {' | '.join(['its layer calls', '', *calls])} |"


def _grown(amounts: list[float], most: int, number: Callable[[float], str]) -> list[str]:
    """Each amount and what it is of the one before; empty up to `most` cells."""
    cells = [number(amounts[0])]
    cells += [f"{number(b)} ({b / a:.2f})" for a, b in itertools.pairwise(amounts)]
    return cells + [""] * (most - len(cells))


def _rate(work: list[Any] | None, seconds: float) -> str:
    return "" if work is None else f"{work[0] / seconds:,.0f} {work[1]}/s"


def _number(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds >= 10 else f"{milliseconds:.3f}"


def main() -> int:
    """Rewrite the page in place."""
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")
    }
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
