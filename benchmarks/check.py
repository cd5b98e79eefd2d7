"""Have the ratios of the CPU table stayed what they were?

    python -m benchmarks.check                     against benchmarks/results/cpu.json
    python -m benchmarks.check --rows ROW ...      some of its rows

Runs the CPU rows that state a `spread` and compares their ratios (to peers, to the own plain run;
never seconds, never a ratio to a limit) with those of the committed file. A ratio may exceed the
old one by the row's spread, which is how far it moves between quiet runs; beyond that the exit
status is 1. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.lab import LIMIT

COMMITTED = Path(__file__).parent / "results" / "cpu.json"
Table = dict[str, Any]


def main() -> int:
    asked = _arguments()
    if not asked.against.is_file():
        print(f"{asked.against} does not exist: python -m benchmarks.cpu --out writes it")
        return 2
    committed = json.loads(asked.against.read_text(encoding="utf-8"))
    old = committed["rows"]
    names = [name for name, one in old.items() if one["spread"] is not None]
    unknown = sorted(set(asked.rows or ()) - set(names))
    if unknown:
        print(f"no row {unknown[0]} with a spread; there are {', '.join(names)}", file=sys.stderr)
        return 2
    about, new = _measured(asked.rows or names)
    worse = 0
    if about and about["machine"] != committed["about"]["machine"]:
        print(f"the old ratios are those of another machine: {committed['about']['machine']}")
    print(f"{'row':28} {'against':16} {'old':>7} {'new':>7} {'bound':>7}")
    for name, against, before, after, bound in compared(old, new):
        verdict = "" if after <= bound else "  beyond"
        worse += after > bound
        print(f"{name:28} {against:16} {before:7.3f} {after:7.3f} {bound:7.3f}{verdict}")
    missing = [name for name in asked.rows or names if name not in new]
    for name in missing:
        print(f"{name:28} was not measured")
    return 1 if worse or missing else 0


def compared(old: Table, new: Table) -> Iterator[tuple[str, str, float, float, float]]:
    """(row, against, old ratio, new ratio, bound) of all that both measured."""
    for name, row in old.items():
        for against, before in row["ratio"].items():
            after = new.get(name, {}).get("ratio", {}).get(against)
            if row["spread"] is not None and against != LIMIT and after is not None:
                yield name, against, before, after, before * (1 + row["spread"])


def _measured(rows: list[str]) -> tuple[Table, Table]:
    """Where a run of the table ran, and its rows, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cpu.json"
        command = [sys.executable, "-m", "benchmarks.cpu", "--rows", *rows, "--out", str(out)]
        subprocess.run(command, cwd=Path(__file__).parents[1], check=True)
        found: Table = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    return found.get("about", {}), found.get("rows", {})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="instead of every stable one")
    parser.add_argument("--against", type=Path, default=COMMITTED, help="another committed file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
