"""The results of the study as small tables, from the result files of its scripts.

    python experiments/outliers/tables.py --models DIR --out DIR

Reads what the scripts wrote below `--out` and the cards (`card.json`) below `--models`, and writes
CSV files to `results/` beside this script.
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
OUTPUTS = ("kl", "kl_low", "kl_high", "kl_reverse", "agreement", "log_ratio", "kl_q999")
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
    _write("rotations.csv", _rotations(list(results(args.out / "rotations"))))
    _write("texts.csv", _texts(list(results(args.out / "texts"))))
    _write("embeddings.csv", _embeddings(list(results(args.out / "embeddings"))))
    done = list(results(args.out / "operations"))
    _write("operations.csv", _operations(done))
    _write("sinks.csv", _sinks(done))
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
            kept = {column: short(row[column], 3) for column in OUTPUTS}
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
    """Each operation on an outlier, with its interval, beside the same on its controls."""
    for (name, part), data in done:
        if data["tables"] is None:
            continue
        lines = _rows(data["tables"]["operations"])
        count, matched = data["norm"][0]
        for own in lines:
            if own["role"] == "outliers":
                row: Row = {"model": name, "part": part, "layer": data["layer"]}
                row |= {"layers": data["layers"]} | _operation(own, lines)
                yield row | {"norm_channels": count, "norm_ratio": short(matched, 3)}


def _sinks(done: list[tuple[list[str], Row]]) -> Iterable[Row]:
    """The attention to the first token in the unchanged models."""
    for (name, part), data in done:
        if part == "sinks":
            yield {"model": name, "sink": short(data["sink"], 3)}


def _operation(own: Row, lines: list[Row]) -> Row:
    """The line of one operation, and where it stands among the same on controls."""
    kind = (own["operation"], own["dose"])
    same = [one for one in lines if (one["operation"], one["dose"]) == kind]
    random = [one for one in same if one["role"] == "random"]
    losses = [one["loss_change"] for one in random]
    row: Row = {"operation": own["operation"], "dose": short(own["dose"])}
    for column in ("loss_change", "kl", "sink_change"):
        row |= {column + end: short(own[column + end], 3) for end in ("", "_low", "_high")}
    row["changed"] = short(own["changed"] / own["selected"] if own["selected"] else None, 3)
    # What changed no prediction was not touched: of such controls no p can be made.
    touched = [one["loss_change"] for one in random if one["kl"]]
    beyond = sum(abs(one) >= abs(own["loss_change"]) for one in touched)
    row |= {"controls": len(random), "touched": len(touched)}
    row["random_mean"] = short(statistics.mean(losses), 3)
    row |= {"random_low": short(min(losses), 3), "random_high": short(max(losses), 3)}
    row["p"] = short((1 + beyond) / (1 + len(touched)), 2) if touched and own["kl"] else ""
    for role, column in (("norm", "like_in_norm"), ("tokens", "other_tokens")):
        found = [one["loss_change"] for one in same if one["role"] == role]
        row[column] = short(found[0] if found else None, 3)
    return row


def _regrowth(done: list[tuple[list[str], Row]]) -> Iterable[Row]:
    """The outlier's size downstream over its size unchanged, where it was zeroed."""
    for (name, part), data in done:
        if data["tables"] is None or part in ("weight", "doses"):
            continue
        for one in _rows(data["tables"]["regrowth"]):
            if one["layer"] >= data["layer"] and one["operation"] == "zero":
                row = {"model": name, "part": part, "edited": data["layer"], "layer": one["layer"]}
                yield row | {
                    key: short(one[key], 3) for key in ("ratio", "ratio_low", "ratio_high")
                }


def _rotations(found: list[tuple[list[str], Row]]) -> Iterable[Row]:
    """KL of each format as it is, with its interval, and after three rotations."""
    for (name, _), data in found:
        for precision in dict.fromkeys(key.split("@")[0] for key in data):
            row: Row = {"model": name, "precision": precision}
            own = data.get(f"{precision}@own", [None] * 3)
            row |= zip(("kl", "kl_low", "kl_high"), (short(one, 3) for one in own), strict=True)
            turned = (data.get(f"{precision}@r{number}", [None])[0] for number in range(3))
            yield row | {f"rotated_{number}": short(one, 3) for number, one in enumerate(turned)}


def _texts(found: list[tuple[list[str], Row]]) -> Iterable[Row]:
    """Tokens before free texts part, of 64."""
    for (name, _), data in found:
        for key, row in data.items():
            way, precision = key.split("@")
            kept = ("same", "same_low", "same_high", "equal")
            about = {"model": name, "way": way, "precision": precision}
            yield about | {column: short(row[column], 3) for column in kept}


def _embeddings(found: list[tuple[list[str], Row]]) -> Iterable[Row]:
    """How far an encoder's embeddings moved: by format, and by operation beside its controls."""
    for (name, part), data in found:
        if part == "precisions":
            for key, row in data.items():
                of, precision = key.split("@")
                yield _moved(name, of, precision, "", row)
            continue
        random: dict[tuple[str, str], list[float]] = {}
        for row in data["rows"]:
            kind = f"{row['operation']} {row['dose']:g}"
            if row["role"] == "random":
                random.setdefault((row["target"], kind), []).append(row["away"])
            else:
                yield _moved(name, row["target"], kind, row["role"], row)
        for (target, kind), values in random.items():
            ends = {"away": statistics.mean(values), "low": min(values), "high": max(values)}
            yield _moved(name, target, kind, f"random, {len(values)}", ends)


def _moved(name: str, of: str, kind: str, role: str, row: Row) -> Row:
    kept = {column: short(row.get(column), 3) for column in ("away", "low", "high", "neighbour")}
    return {"model": name, "of": of, "change": kind, "role": role} | kept


def _rows(table: dict[str, list[Any]]) -> list[Row]:
    return [dict(zip(table, line, strict=True)) for line in zip(*table.values(), strict=True)]


if __name__ == "__main__":
    main()
