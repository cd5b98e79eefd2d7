"""The results of the study as small tables, from the result files of its scripts.

    python experiments/outliers/tables.py --models DIR --out DIR

Reads `levels/`, `precisions/`, `operations/` and `clipping/` below `--out` and the cards
(`card.json`) below `--models`, and writes CSV files to `results/` beside this script.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common import arguments, results, runs, short

RESULTS = Path(__file__).parent / "results"
LEVELS = {
    "ratio": "massive_activations.ratio",
    "token_ratio": "massive_tokens.ratio",
    "kurtosis": "channel_kurtosis.kurtosis",
    "max_median": "max_median_ratio.ratio",
    "participation": "dispersion.participation_ratio",
    "top1": "dispersion.top1",
}
RESCALED = 6  # blocks after which the fp16 strategy of RWKV-4 halved the residual stream
WITH_INTERVAL = ("ratio", "kurtosis")
SPREAD = ("between_tokens", "between_channels", "between_documents")  # the rest is within


def main() -> None:
    """Command line: see the top of the file."""
    args = arguments(__doc__, corpus=False)
    RESULTS.mkdir(exist_ok=True)
    _write("models.csv", _models(args.models))
    found = [(name, of, _by_place(data)) for (name, of), data in results(args.out / "levels")]
    _write("levels.csv", _levels(found))
    _write("inputs.csv", _inputs(found))
    _write("intervals.csv", _intervals(found))
    _write("dispersion.csv", _dispersion(found))
    _write("confound.csv", _confound(found))
    formats = list(results(args.out / "precisions"))
    _write("precisions.csv", _precisions(formats))
    _write("histograms.csv", _histograms(formats))
    done = [*results(args.out / "operations"), *results(args.out / "clipping")]
    _write("operations.csv", _operations(done))
    _write("regrowth.csv", _regrowth(done))


Found = list[tuple[str, str, dict[tuple[str, int], dict[str, tuple[float, float, float]]]]]
Row = dict[str, Any]


def _write(name: str, rows: Iterable[Row]) -> None:
    listed = list(rows)
    if listed:
        with (RESULTS / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, listed[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(listed)
        print(f"{name}: {len(listed)} rows")


def _models(folder: Path) -> Iterable[Row]:
    for name in runs():
        files = [*folder.glob(f"{name}/card.json"), *folder.glob(f"*/{name}/card.json")]
        if files:
            card = json.loads(files[0].read_text(encoding="utf-8"))
            bits = next(_find(card, "bits_per_byte"))
            yield {"model": name, "parameters": card["parameters"], "bits_per_byte": bits}


def _find(data: Any, key: str) -> Iterable[Any]:
    """Every value of a key, wherever it stands, the outermost first."""
    if isinstance(data, dict):
        if key in data:
            yield data[key]
        for value in data.values():
            yield from _find(value, key)


def _by_place(data: Row) -> dict[tuple[str, int], dict[str, tuple[float, float, float]]]:
    places: dict[tuple[str, int], dict[str, tuple[float, float, float]]] = {}
    for site, layer, name, value, low, high in data["rows"]:
        places.setdefault((site, layer), {})[name] = (value, low, high)
    return places


def _levels(found: Found) -> Iterable[Row]:
    """Every layer, on the books."""
    for name, of, places in found:
        for (site, layer), has in sorted(places.items()):
            if of == "books":
                row = {"model": name, "site": site, "layer": layer}
                yield row | {key: short(has[full][0], 3) for key, full in LEVELS.items()}


def _inputs(found: Found) -> Iterable[Row]:
    """Medians over layers for every input, and the largest max / median of any layer."""
    for name, of, places in found:
        for site in dict.fromkeys(site for site, _ in sorted(places)):
            own = [has for (at, _), has in places.items() if at == site]
            columns = {key: [has[full][0] for has in own] for key, full in LEVELS.items()}
            row = {"model": name, "input": of, "site": site}
            row |= {key: short(statistics.median(values), 3) for key, values in columns.items()}
            yield row | {"ratio_largest": short(max(columns["ratio"]), 4)}


def _intervals(found: Found) -> Iterable[Row]:
    for name, of, places in found:
        for (site, layer), has in sorted(places.items()):
            if of == "books":
                row = {"model": name, "site": site, "layer": layer}
                for key in WITH_INTERVAL:
                    _, low, high = has[LEVELS[key]]
                    row |= {f"{key}_low": short(low, 3), f"{key}_high": short(high, 3)}
                yield row


def _dispersion(found: Found) -> Iterable[Row]:
    """Shares of the variance, and how it stands to robust scale, on the books."""
    for name, of, places in found:
        for (site, layer), has in sorted(places.items()):
            if of == "books":
                value = {key.split(".")[1]: one[0] for key, one in has.items() if "disp" in key}
                row = {"model": name, "site": site, "layer": layer, "std": short(value["std"], 3)}
                row |= {part: short(value[part] / value["variance"], 3) for part in SPREAD}
                yield row | {"mad": short(value["mad"], 3)}


def _confound(found: Found) -> Iterable[Row]:
    """Mean over texts of max |ffn_out|: true, and as it was shown with the rescale left in."""
    for name, of, places in found:
        for (site, layer), has in sorted(places.items()):
            if of == "books" and site == "ffn_out" and "rwkv4" in name:
                true = has["massive_activations.absmax"][0]
                row = {"model": name, "layer": layer, "true": short(true)}
                yield row | {"rescaled": short(true * 2.0 ** -(layer // RESCALED))}


def _precisions(found: list[tuple[list[str], Row]]) -> Iterable[Row]:
    for (name, of), data in found:
        for precision, row in data["outputs"].items():
            kept = {key: short(value, 3) for key, value in row.items() if "reverse_" not in key}
            yield {"model": name, "input": of, "precision": precision} | kept


def _histograms(found: list[tuple[list[str], Row]]) -> Iterable[Row]:
    """Medians over layers of the histograms' divergences, in nats, on the books."""
    for (name, of), data in found:
        if of != "books":
            continue
        places = dict.fromkeys((one[0], one[1]) for one in data["shifts"])
        for precision, site in places:
            lines = [one[3:] for one in data["shifts"] if one[:2] == [precision, site]]
            columns = zip(("jsd", "null", "crossed"), zip(*lines, strict=True), strict=True)
            medians = {key: short(statistics.median(values), 3) for key, values in columns}
            yield {"model": name, "precision": precision, "site": site} | medians


def _operations(done: list[tuple[list[str], Row]]) -> Iterable[Row]:
    """Each operation on an outlier, with its interval, beside the controls."""
    found: dict[tuple[str, int, str, str], Row] = {}
    for (name, _), data in done:
        for table in data["tables"]:
            lines = _rows(table["operations"])
            for beside in _rows(table["operations-controls"]):
                key = (name, data["layer"], beside["target"], beside["operation"])
                if key not in found or beside["controls"]:
                    row = {"model": name, "layer": data["layer"], "layers": data["layers"]}
                    found[key] = row | _operation(lines, beside)
    return [found[key] for key in sorted(found)]


def _operation(lines: list[Row], beside: Row) -> Row:
    """The line of one operation, from those of its targets and from its controls."""
    same = [one for one in lines if one["operation"] == beside["operation"]]
    own = next(one for one in same if one["target"] == beside["target"])
    random = [one for one in same if one["target"].startswith(f"{beside['target']}: random")]
    row: Row = {"target": beside["target"], "operation": beside["operation"]}
    for column in ("loss_change", "kl"):
        for end in ("", "_low", "_high"):
            row[column + end] = short(own[column + end])
    row["changed"] = short(own["changed"] / own["selected"], 3)
    for column in ("controls", "random_mean", "random_low", "random_high", "p"):
        row[column] = short(beside[column])
    shares = [one["changed"] / one["selected"] for one in random]
    row["random_changed"] = short(statistics.mean(shares) if shares else None, 3)
    return row | {name: short(beside[name]) for name in ("like_in_norm", "other_tokens")}


def _regrowth(done: list[tuple[list[str], Row]]) -> Iterable[Row]:
    """The outlier's size downstream over its size unchanged."""
    found: dict[tuple[str, int, str, str, int], Row] = {}
    for (name, _), data in done:
        for table in data["tables"]:
            for one in _rows(table["regrowth"]):
                if one["layer"] >= data["layer"]:
                    row = {"model": name, "edited": data["layer"], "layer": one["layer"]}
                    row |= {"target": one["target"], "operation": one["operation"]}
                    ends = {key: short(one[key]) for key in ("ratio", "ratio_low", "ratio_high")}
                    key = (name, data["layer"], one["target"], one["operation"], one["layer"])
                    found[key] = row | ends
    return [found[key] for key in sorted(found)]


def _rows(table: dict[str, list[Any]]) -> list[Row]:
    return [dict(zip(table, line, strict=True)) for line in zip(*table.values(), strict=True)]


if __name__ == "__main__":
    main()
