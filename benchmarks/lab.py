"""One table of speed: rows that race this package against its peers and a measured limit.

A row is a function in a file of `benchmarks/gpu/` or `benchmarks/cpu/`:

    @row("llama-forward", needs=("transformers",))
    def forward(lab: Lab) -> Result:
        ...
        times = lab.race({"laminogram": ours, "transformers": theirs})
        return Result(times, work=(4096, "tok"), limit=seconds, limit_is="its own products",
                      targets=(Target("transformers", 0.60),))

The command finds the files, skips by name what cannot run here, and keeps every round's seconds.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pkgutil
import platform
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Times, Work, interleave

OURS = "laminogram"
LIMIT = "limit"
_PACKAGES = ("torch", "triton", "transformers", "rwkv", "flash-linear-attention", "torchao")


class Skip(Exception):
    """A row cannot run here; the message says what is missing."""


@dataclass(frozen=True)
class Target:
    """Ours is to take at most `at_most` of the time of `against`: a side, or the limit."""

    against: str
    at_most: float


@dataclass(frozen=True)
class Result:
    """What a row gave.

    work: what one run gets done, as an amount and its unit. limit: seconds that one run would take
    at the limit of this device, measured in the same run. ours: the side that targets are about.
    spread: by how much the ratio moves between quiet runs, where `bench-check` may look at it.
    notes: further numbers, by name.
    """

    times: Times
    work: tuple[float, str] | None = None
    limit: float | None = None
    limit_is: str = ""
    targets: tuple[Target, ...] = ()
    ours: str = OURS
    spread: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def ratio(self, against: str) -> float:
        """The time of ours over that of a side (median of pairs), or over the limit."""
        if against != LIMIT:
            return self.times.ratio(self.ours, against)
        if self.limit is None:
            raise KeyError("this row has no limit")
        return self.times.median(self.ours) / self.limit

    def record(self) -> dict[str, Any]:
        """Plain data."""
        sides = list(self.times.seconds)
        against = [side for side in sides if side != self.ours]
        against += [LIMIT] if self.limit else []
        return {
            "ours": self.ours,
            "work": self.work,
            "median_s": {side: self.times.median(side) for side in sides},
            "min_s": {side: self.times.minimum(side) for side in sides},
            "limit_s": self.limit,
            "limit_is": self.limit_is,
            "ratio": {side: self.ratio(side) for side in against},
            "ratio_range": {
                side: self.times.range_of_ratio(self.ours, side)
                for side in sides
                if side != self.ours
            },
            "targets": {target.against: target.at_most for target in self.targets},
            "spread": self.spread,
            "notes": dict(self.notes),
            "seconds": self.times.seconds,
        }


Measure = Callable[["Lab"], Result]


@dataclass(frozen=True)
class Row:
    """One measurement by name, and the packages without which it is skipped."""

    name: str
    measure: Measure
    needs: tuple[str, ...]


_ROWS: dict[str, list[Row]] = {}


def row(name: str, needs: Iterable[str] = ()) -> Callable[[Measure], Measure]:
    """Register a measurement under the table of the folder that its file lies in."""

    def register(measure: Measure) -> Measure:
        table = measure.__module__.split(".")[1]
        _ROWS.setdefault(table, []).append(Row(name, measure, tuple(needs)))
        return measure

    return register


@dataclass(frozen=True)
class Lab:
    """Where rows are measured: the device, how many rounds, and a folder for checkpoints."""

    device: str
    rounds: int | None
    scratch: Path
    tiny: bool = False

    def race(
        self, sides: Mapping[str, Work], *, rounds: int = 9, warmup: int = 3, repeat: int = 1
    ) -> Times:
        """Interleaved times; `repeat` runs of a side are timed together and divided."""
        return interleave(sides, rounds=self.rounds or rounds, warmup=warmup, repeat=repeat)


def rows_of(table: str) -> list[Row]:
    """Every row of a table, in the order of its files' names."""
    package = importlib.import_module(f"benchmarks.{table}")
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        if not module.name.startswith("_"):
            importlib.import_module(f"benchmarks.{table}.{module.name}")
    return _ROWS.get(table, [])


def main(table: str, device: str) -> int:
    """The command of a table: measure its rows, print them, and write JSON."""
    rows = rows_of(table)
    asked = _arguments(table, [one.name for one in rows])
    if device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device is visible to torch", file=sys.stderr)
        return 2
    if device == "cpu":
        torch.set_num_threads(asked.threads)
    out = {"about": about(device, asked.threads), "rows": {}, "skipped": {}}
    print(out["about"]["machine"], flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        lab = Lab(device, asked.rounds, Path(scratch), asked.tiny)
        for one in rows:
            if asked.rows and one.name not in asked.rows:
                continue
            try:
                result = _measured(one, lab)
            except Skip as why:
                out["skipped"][one.name] = str(why)
                print(f"{one.name}: skipped, {why}", flush=True)
                continue
            except Exception as error:  # noqa: BLE001 - one fault must not lose the other rows
                traceback.print_exc()
                out["skipped"][one.name] = f"{type(error).__name__}: {error}"
                continue
            out["rows"][one.name] = result.record()
            print("\n".join(lines(one.name, result)), flush=True)
            if asked.out:  # after every row, so that a broken-off run keeps what it has
                write_results(Path(asked.out), out)
            release()
    return 0


def write_results(path: Path, results: Any) -> None:
    """Results as JSON, a list on one line, numbers to six digits: no clock knows more."""
    text = json.dumps(_short(results), indent=1)
    text = re.sub(r"\[[^][{}]*]", lambda one: re.sub(r"\n *", " ", one[0]), text)
    path.write_text(text + "\n", encoding="utf-8")


def _short(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _short(one) for key, one in x.items()}
    if isinstance(x, list | tuple):
        return [_short(one) for one in x]
    return float(f"{x:.6g}") if isinstance(x, float) else x


def _measured(one: Row, lab: Lab) -> Result:
    missing = [name for name in one.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise Skip(f"{', '.join(missing)} is not installed here")
    begin = time.perf_counter()
    with torch.no_grad():
        result = one.measure(lab)
    print(f"[{one.name}: {time.perf_counter() - begin:.0f} s]", flush=True)
    return result


def release() -> None:
    """Give memory of the last row back before the next one, and keep Python from looking through
    what stays (compilers leave millions of objects) in the midst of a measurement."""
    gc.collect()
    gc.freeze()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def lines(name: str, result: Result) -> Iterator[str]:
    """What the terminal shows of a row."""
    for side in result.times.seconds:
        median = result.times.median(side)
        rate = f"  {result.work[0] / median:10.0f} {result.work[1]}/s" if result.work else ""
        yield f"{name:28} {side:24} {1e3 * median:10.3f} ms{rate}"
    record = result.record()
    for against, ratio in record["ratio"].items():
        low_high = record["ratio_range"].get(against)
        span = f" ({low_high[0]:.3f} to {low_high[1]:.3f})" if low_high else ""
        wanted = record["targets"].get(against)
        verdict = "" if wanted is None else f"  target {wanted:.3f}"
        verdict += "" if wanted is None else ("  met" if ratio <= wanted else "  NOT met")
        yield f"{name:28} of {against:21} {ratio:10.3f}{span}{verdict}"
    for key, value in result.notes.items():
        yield f"{name:28} {key}: {value}"


def about(device: str, threads: int) -> dict[str, Any]:
    """Device, versions and date."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "machine": _chip(device),
        "threads": threads if device == "cpu" else None,
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.date.today().isoformat(),
    }


def _chip(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    found = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{found[0] if found else platform.processor()}, {os.cpu_count()} cores"


def _arguments(table: str, names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{table}")
    parser.add_argument(
        "--rows", nargs="+", choices=names, metavar="ROW", help=f"which of {', '.join(names)}"
    )
    parser.add_argument("--rounds", type=int, help="instead of each row's own number")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="small shapes: does the row work?")
    parser.add_argument("--out", help="a JSON file for everything that was measured")
    return parser.parse_args()
