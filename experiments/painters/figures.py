"""The figures of the page, drawn from `results/`.

python experiments/painters/figures.py            # writes figures/*.svg
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recovery import MARGINS
from svg import Chart, Grid, HeatMap, Line, Panel, draw

HERE = Path(__file__).parent
MODELS = ("small-llama", "small-rwkv4")
VARIANTS = ("skip", "middle_repeat", "parallel", "reverse", "random", "looped")
AFFECTED = "layers affected, M"
LEAST = 0.005
"""Nats: smaller gaps are drawn here, where a logarithm needs a number above 0."""
NARROW = 3
"""Layers of the largest middle whose recovery is drawn."""

Row = dict[str, Any]


def main() -> None:
    """Command line: see the top of the file."""
    drawings: dict[str, Sequence[Panel]] = {
        "loss": [_sweep(model, "above", "loss above full, nats a token") for model in MODELS],
        "tasks": [_sweep(model, "median", "median share of three tasks") for model in MODELS],
        "layers": [_by_layer(model) for model in MODELS],
        "similarity": [_similarity(model) for model in MODELS],
        "caches": [_cache_losses(), _cache_sums()],
        "glue": [_glue("sst2", 0), _glue("sst2", 1), _glue("cola", 0)],
        "iterations": [_iterations(model) for model in MODELS],
        "recover": _recovered(),
    }
    folder = HERE / "figures"
    folder.mkdir(exist_ok=True)
    for name, panels in drawings.items():
        (folder / f"{name}.svg").write_text(draw(panels))


def table(name: str) -> list[Row]:
    """The rows of a file of `results/`; numbers are numbers, an empty field is None."""
    with (HERE / "results" / f"{name}.csv").open(newline="") as stream:
        return [{key: _read(text) for key, text in row.items()} for row in csv.DictReader(stream)]


def facts(model: str) -> dict[str, Any]:
    """What `measure.py` says of a model beside its table."""
    found: dict[str, Any] = json.loads((HERE / "results" / f"{model}.json").read_text())
    return found


def _read(text: str) -> Any:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _sweep(model: str, key: str, y: str) -> Chart:
    rows = table(model)
    full = next(row for row in rows if row["variant"] == "full")
    lines = [
        _line(variant, [r for r in rows if r["variant"] == variant], "affected", key)
        for variant in VARIANTS
    ]
    return Chart(model, AFFECTED, y, lines, levels=[("full", full[key])])


def _by_layer(model: str) -> Chart:
    rows = table(model)
    lines = [
        _line(name, [row for row in rows if row["variant"] == variant], "layer", "above")
        for variant, name in (("skip_one", "layer skipped"), ("swap", "swapped with the next"))
    ]
    return Chart(model, "layer", "loss above full, nats a token", lines, log=True)


def _line(name: str, rows: Sequence[Row], x: str, key: str) -> Line:
    return Line(
        name,
        [(row[x], row[key]) for row in rows],
        [(row[f"{key}_low"], row[f"{key}_high"]) for row in rows],
    )


def _similarity(model: str) -> HeatMap:
    found = facts(model)
    cuts = [first for _, first, _ in found["groups"][1:]]
    title = f"{model}: cosine of states, per token"
    return HeatMap(title, "state (input of the layer)", found["similarity"], cuts)


def _cache_rows(repeats: int) -> list[Row]:
    return [row for row in table("caches-small-llama") if row["repeats"] == repeats]


def _cache_losses() -> Chart:
    lines = []
    for repeats, said in ((1, "parallel"), (3, "looped 3 times")):
        for cache in ("exact", "averaged"):
            rows = _cache_rows(repeats)
            points = [(row["affected"], row[f"loss_{cache}"]) for row in rows]
            lines.append(Line(f"{said}, {cache}", points))
    return Chart("small-llama, held-out text", AFFECTED, "loss, nats a token", lines)


def _cache_sums() -> Chart:
    lines = []
    for repeats, said in ((1, "parallel"), (3, "looped 3 times")):
        for cache in ("exact", "averaged"):
            rows = _cache_rows(repeats)
            points = [(row["affected"], row[f"sums_{cache}"]) for row in rows]
            lines.append(Line(f"{said}, {cache}", points))
    return Chart("small-llama, sums written", AFFECTED, "share right", lines)


def _glue(task: str, frozen: int) -> Chart:
    metric, said = (
        ("matthews", "Matthews' correlation") if task == "cola" else ("accuracy", "accuracy")
    )
    rows = [row for row in table("glue") if row["task"] == task and row["frozen"] == frozen]
    full = next(row for row in rows if row["variant"] == "full")
    lines = []
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        by_middle = {1: [full]}  # with one layer affected all but skip and looped are the full plan
        for row in own:
            by_middle[row["affected"]] = [one for one in own if one["affected"] == row["affected"]]
        points = [(m, *mean_of_plans(by_middle[m], metric)) for m in sorted(by_middle)]
        ends = [(y - error, y + error) for _, y, error in points]
        lines.append(Line(variant, [(m, y) for m, y, _ in points], ends))
    levels = [("full", full[metric])]
    if metric == "accuracy":
        levels.append(("commonest class", full["majority"]))
    title = f"{task}, {'classifier alone' if frozen else 'all weights'} trained"
    return Chart(title, AFFECTED, said, lines, levels=levels)


def mean_of_plans(rows: Sequence[Row], metric: str) -> tuple[float, float]:
    """Of some plans, with the standard error of a single one: examples are the same for all."""
    mean = sum(row[metric] for row in rows) / len(rows)
    return mean, sum(row[f"{metric}_error"] for row in rows) / len(rows)


def _iterations(model: str) -> Grid:
    """Loss above full by iterations and parallel layers; the best of each column has a frame."""
    rows = [row for row in table(model) if row["variant"] == "iterations"]
    middles, repeats = (sorted({row[key] for row in rows}) for key in ("affected", "repeats"))
    cells = {(row["repeats"], row["affected"]): row for row in rows}
    best = [min(repeats, key=lambda again, m=m: cells[again, m]["above"]) for m in middles]
    return Grid(
        f"{model}: loss above full, nats a token",
        "layers in parallel, M",
        "iterations",
        [f"{m:g}" for m in middles],
        [f"{again:g}" for again in repeats],
        [[f"{cells[again, m]['above']:z.2f}" for m in middles] for again in repeats],
        [[0.8 * cells[again, m]["share"] for m in middles] for again in repeats],
        [(repeats.index(again), j) for j, again in enumerate(best)],
    )


def _recovered() -> list[Chart]:
    """One chart for each model, of its middles up to `NARROW`."""
    rows = [row for row in table("recover") if row["affected"] <= NARROW]
    return [_recovery(model, [row for row in rows if row["model"] == model]) for model in MODELS]


def _recovery(model: str, rows: Sequence[Row]) -> Chart:
    """Each judging has twice the steps of the one before or so, hence the even places."""
    steps, lines = steps_of(rows[0]), []
    for row in sorted(rows, key=lambda one: (one["affected"], VARIANTS.index(one["variant"]))):
        points, ends = [], []
        for place, step in enumerate(steps):
            numbers = (row[f"gap_{step}{end}"] for end in ("", "_low", "_high"))
            gap, low, high = (max(LEAST, one) for one in numbers)
            points.append((place, gap))
            ends.append((low, high))
        lines.append(Line(f"{row['variant']}, M = {row['affected']:g}", points, ends))
    levels = [("", margin) for margin in MARGINS]  # the axis names them
    y, ticks = "held-out loss above full, nats", [f"{step}" for step in steps]
    return Chart(model, "steps", y, lines, log=True, levels=levels, ticks=ticks)


def steps_of(row: Row) -> list[int]:
    """The steps at which a row of recover.csv has gaps."""
    gaps = (key for key, gap in row.items() if key.startswith("gap_") and gap is not None)
    found = (key.removeprefix("gap_") for key in gaps)
    return [int(name) for name in found if name.isdecimal()]


if __name__ == "__main__":
    main()
