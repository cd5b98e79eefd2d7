"""A report on outliers as pictures: verdicts, dispersion, channels, precisions, operations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from laminogram.report.charts import (
    Columns,
    chart,
    charts_picture,
    estimate,
    grid,
    lines_of,
    series,
    shares,
    some,
)
from laminogram.report.figures import number
from laminogram.report.picture import Picture
from laminogram.studies.compare.result import SMALL
from laminogram.studies.outlier_report.report import OutlierReport
from laminogram.studies.outlier_report.work import Part

RESULT = "OutlierReport"
SPREADS = (
    ("rms", "Root mean square", "log"),
    ("mad", "Median absolute deviation", "log"),
    ("top1", "Energy in the top channel", "linear"),
    ("participation_ratio", "Participation ratio, channels", "log"),
)
"""(quantity of the definition `dispersion`, title, kind of axis)."""
SITES = ("ffn_out", "resid_post")
LISTED = 12
"""Channels, and pairs of definitions that disagree, that a page lists of one part."""


def picture(result: OutlierReport) -> Picture:
    """Return the verdicts of the first model of a `studies.outlier_report.OutlierReport`."""
    return _verdicts(result, result.models[0])


def pictures(result: OutlierReport) -> list[Picture]:
    """Return every picture for which the report has a part."""
    drawn = []
    for model in result.models:
        drawn.append(_verdicts(result, model))
        if "dispersion" in result.settings.chosen:
            drawn.append(_dispersion(result, model))
        drawn.append(_channels(result, model))
    if result.of("precision"):
        drawn.append(_precisions(result))
    drawn += [_operations(result, part) for part in result.of("operations")]
    return drawn


def _name(part: Part, model: bool = False) -> str:
    shown = f"{part.precision}, {part.input}"
    return f"{part.model}, {shown}" if model else shown


def _parts(result: OutlierReport, kind: str, model: str) -> list[Part]:
    return [part for part in result.of(kind) if part.model == model]


def _of(result: OutlierReport, table: str, model: str) -> Columns:
    return some(result.tables().get(table, {"model": []}), model=model)


# Verdicts


def _verdicts(result: OutlierReport, model: str) -> Picture:
    parts = _parts(result, "verdicts", model)
    grids = [_verdict_grid(part) for part in parts]
    grids += [_differing(part) for part in parts[:1]]
    grids += [_largest(part) for part in parts[:1]]
    said = []
    for part in parts:
        yes = {
            line["definition"]
            for line in lines_of(part.tables["outliers-verdicts"])
            if line["verdict"]
        }
        found = ", ".join(sorted(yes)) or "none"
        said.append(f"With {_name(part)}, these find an outlier: {found}.")
    return charts_picture(
        "outliers",
        "What every definition says",
        model,
        "Every published definition on the same tensors. A cell counts the sites of a layer at "
        "which a definition with a published threshold finds an outlier; a definition whose "
        "interval over documents reaches across its threshold is marked as undecided there.",
        " ".join(said),
        {
            name: _of(result, name, model)
            for name in ("outliers-verdicts", "outliers-differ", "outliers-definitions")
        },
        manifest=result.manifest,
        grids=grids,
        notes=(
            "The sources, thresholds and traps of all definitions are in outliers-definitions. "
            "Where two definitions disagree, by layer, is in outliers-differ.",
            *_small(result, model),
        ),
    )


def _verdict_grid(part: Part) -> dict[str, Any]:
    judged: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for line in lines_of(part.tables["outliers-verdicts"]):
        if line["verdict"] is not None:
            judged.setdefault(line["definition"], {}).setdefault(line["layer"], []).append(line)
    layers = sorted({layer for by_layer in judged.values() for layer in by_layer})
    rows, places = [], []
    for definition, by_layer in sorted(judged.items()):
        row: list[str] = [definition]
        shade: list[float | None] = []
        for layer in layers:
            lines = by_layer.get(layer)
            if not lines:
                row.append("")
                shade.append(None)
                continue
            yes = sum(bool(line["verdict"]) for line in lines)
            open_ = any(line["decided"] is False for line in lines)
            row.append(f"{yes} of {len(lines)}{' ?' if open_ else ''}")
            shade.append(yes / len(lines))
        rows.append(row)
        places.append(shade)
    columns = ["definition", *("all" if layer < 0 else f"layer {layer}" for layer in layers)]
    caption = f"{_name(part)}: sites with an outlier, by layer (?: undecided at one at least)"
    return grid(caption, columns, rows, places)


def _differing(part: Part) -> dict[str, Any]:
    """The pairs of definitions that disagree most often, with one example each."""
    seen: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines_of(part.tables["outliers-differ"]):
        yes, no = ("first", "second") if line["first_verdict"] else ("second", "first")
        key = line[yes], line[no]
        seen.setdefault(key, []).append(
            {"layer": line["where"], "yes": line[f"{yes}_says"], "no": line[f"{no}_says"]}
        )
    ordered = sorted(seen.items(), key=lambda one: (-len(one[1]), one[0]))[:LISTED]
    rows = [
        [yes, no, ", ".join(str(one["layer"]) for one in found), found[0]["yes"], found[0]["no"]]
        for (yes, no), found in ordered
    ]
    columns = ["finds one", "finds none", "at layers", "the one says", "the other"]
    caption = f"{_name(part)}: where verdicts differ, the {len(rows)} pairs with most layers"
    return grid(caption, columns, rows, words=[1, 2, 3, 4])


def _largest(part: Part) -> dict[str, Any]:
    """Of every definition its first quantity where that is largest, with interval and null."""
    first: dict[str, dict[str, Any]] = {}
    quantity: dict[str, str] = {}
    for line in lines_of(part.tables["outliers-verdicts"]):
        name = line["definition"]
        if quantity.setdefault(name, line["quantity"]) != line["quantity"]:
            continue
        known = first.get(name)
        if known is None or (line["value"] or -math.inf) > (known["value"] or -math.inf):
            first[name] = line
    rows = []
    for name, line in sorted(first.items()):
        where = "all" if line["layer"] < 0 else f"{line['site']}, layer {line['layer']}"
        value = estimate(line["value"], line["low"], line["high"])
        threshold = "none" if line["threshold"] is None else number(line["threshold"])
        null = "n/a" if line["null"] is None else number(line["null"], 3)
        rows.append([name, line["quantity"], where, value, null, threshold])
    columns = ["definition", "quantity", "where", "largest [95 %]", "null", "threshold"]
    caption = f"{_name(part)}: each definition’s number where it is largest"
    return grid(caption, columns, rows, words=[1, 2])


# By layer


def _dispersion(result: OutlierReport, model: str) -> Picture:
    parts = _parts(result, "verdicts", model)
    tables = [some(part.tables["outliers-verdicts"], definition="dispersion") for part in parts]
    layers = sorted({layer for table in tables for layer in table["layer"] if layer >= 0})
    whole = _of(result, "outliers-verdicts", model)
    charts = []
    for site in SITES:
        for quantity, title, kind in SPREADS:
            lines = []
            for part, table in zip(parts, tables, strict=True):
                found = some(table, quantity=quantity, site=site)
                lines.append(_course(_name(part), found, layers, "value", "low", "high"))
            charts.append(chart(f"{title}: {site}", lines, kind))
    return charts_picture(
        "outliers",
        "Dispersion by layer",
        model,
        "How large and how spread the values are. The root mean square follows outliers, the "
        "median absolute deviation does not: where the two part, few values rule. Bars are 95 % "
        "intervals over documents.",
        _spread_said(tables[0], _name(parts[0])),
        {"outliers-dispersion": some(whole, definition="dispersion")},
        manifest=result.manifest,
        charts=charts,
        labels=[str(layer) for layer in layers],
        notes=_small(result, model),
    )


def _course(
    name: str, found: Columns, layers: Sequence[int], value: str, low: str, high: str
) -> dict[str, Any]:
    """A column over layers; where a layer runs several times, its first step."""
    at: dict[int, int] = {}
    for place, layer in enumerate(found["layer"]):
        at.setdefault(layer, place)

    def read(column: str) -> list[float]:
        kept = (found[column][at[layer]] if layer in at else None for layer in layers)
        return [math.nan if one is None else float(one) for one in kept]

    return series(name, read(value), read(low), read(high))


def _spread_said(table: Columns, name: str) -> str:
    found = some(table, quantity="top1", site=SITES[-1])
    best = max(range(len(found["value"])), key=lambda i: found["value"][i] or 0.0)
    told = estimate(found["value"][best], found["low"][best], found["high"][best])
    return (
        f"With {name}, the top channel of {SITES[-1]} holds most of the energy at layer "
        f"{found['layer'][best]}: a share of {told}."
    )


def _channels(result: OutlierReport, model: str) -> Picture:
    grids = []
    for part in _parts(result, "channels", model):
        lines = sorted(lines_of(part.tables["outliers-channels"]), key=lambda one: -one["ratio"])
        rows, values = [], []
        for one in lines[:LISTED]:
            told = (_estimate(one, k) for k in ("absmax", "ratio"))
            rows.append([f"{one['site']} {one['layer']}", one["channel"], *told])
            values.append([math.nan, math.nan, one["ratio"]])
        columns = ["site and layer", "channel", "largest |x| [95 %]", "over the median channel"]
        grids.append(grid(f"{_name(part)}: the largest channels", columns, rows, shares(values)))
    first = grids[0]["rows"][0]
    return charts_picture(
        "outliers",
        "The largest channels",
        model,
        "Channels by their largest |x| over that of the median channel of the same place. A "
        "maximum’s interval reaches down only: resampling finds no larger value than there is.",
        f"{first[0]}, channel {first[1]}, stands out most: {first[3]} times the median channel.",
        {"outliers-channels": _of(result, "outliers-channels", model)},
        manifest=result.manifest,
        grids=grids,
        notes=_small(result, model),
    )


# Precisions and operations


def _precisions(result: OutlierReport) -> Picture:
    measures = (
        ("kl", "KL(first || this)"),
        ("kl_reverse", "KL(this || first)"),
        ("agreement", "same likeliest token"),
        ("log_ratio", "nats more"),
        ("perplexity_reference", "perplexity of the first"),
        ("perplexity", "perplexity"),
    )
    rows: list[list[str]] = []
    moved: list[list[str]] = []
    for part in result.of("precision"):
        line = lines_of(part.tables["precision-outputs"])[0]
        told = [_estimate(line, key) for key, _ in measures]
        same = lines_of(part.tables.get("precision-texts-summary", {}))
        length = _estimate(same[0], "same") if same else "n/a"
        rows.append([_name(part, model=True), *told, length])
        moved += _moved(part)
    columns = ["", *(name for _, name in measures), "tokens alike in free text"]
    places = ["model, precision, input", "site", "largest divergence", "at layer", "null there"]
    tables = result.tables()
    return charts_picture(
        "outliers",
        "Precisions",
        result.model,
        f"Each precision beside {result.settings.precisions[0]}: predictions on the same tokens, "
        f"{result.settings.seeds} texts of {result.settings.new_tokens} tokens continued from each "
        "document with the same draws, and the histograms of |x|.",
        " ".join(f"{row[0]}: KL {row[1]} nats a token." for row in rows),
        {name: table for name, table in tables.items() if name.startswith("precision-")},
        manifest=result.manifest,
        grids=[
            grid("Value [95 % interval over documents]", columns, rows),
            grid("Histograms of |x|: Jensen-Shannon divergence, nats", places, moved, words=[1]),
        ],
        notes=(
            "Weights are rounded as the format says and products are computed from the rounded "
            "values: what is measured is the rounding, not a kernel’s speed or its own sums.",
            *(note for model in result.models for note in _small(result, model)),
        ),
    )


def _moved(part: Part) -> Iterator[list[str]]:
    table = part.tables.get("precision-histograms", {"site": []})
    for site in dict.fromkeys(table["site"]):
        found = lines_of(some(table, site=site))
        most = max(found, key=lambda one: one["jsd"])
        values = [number(most["jsd"], 3), str(most["layer"]), number(most["null"], 3)]
        yield [_name(part, model=True), site, *values]


def _operations(result: OutlierReport, part: Part) -> Picture:
    known = {
        (one["target"], one["operation"], one["dose"]): one
        for one in lines_of(part.tables["operations"])
    }
    rows, values = [], []
    for one in lines_of(part.tables["operations-controls"]):
        effect = known[one["target"], one["operation"], one["dose"]]
        told = [_estimate(effect, key) for key in ("loss_change", "kl", "sink_change")]
        null = estimate(one["random_mean"], one["random_low"], one["random_high"])
        others = [number(one[name], 3) for name in ("p", "like_in_norm", "other_tokens")]
        others[0] = one["note"] or others[0]
        label = f"{one['target']}: {one['operation']} {one['dose']:g}"
        rows.append([label, told[0], null, *others, *told[1:]])
        values.append([effect["loss_change"], *[math.nan] * 6])
    columns = ["operation", "nats more", "random controls [range]", "p", "like in norm"]
    columns += ["other tokens", "KL", "sink mass more"]
    targets = lines_of(part.tables["operations-targets"])
    about = ("target", "site", "layers", "channels", "count")
    listed = [[one[name] for name in about] for one in targets]
    charts, labels = _regrowth(part)
    names = [name for name in part.tables if name.startswith("operations")]
    where = {"model": part.model, "precision": part.precision, "input": part.input}
    tables = result.tables()
    return charts_picture(
        "outliers",
        f"Operations on outliers: {part.input}",
        part.model,
        "What changing the outliers does to the loss, paired by document, beside the same on as "
        f"many random channels, {result.settings.draws} times. p is that of a permutation test: "
        f"with {result.settings.draws} draws it is not below "
        f"{1 / (1 + result.settings.draws):.2g}.",
        " ".join(f"{row[0]} changes the loss by {row[1]} nats a token." for row in rows[:6]),
        {name: some(tables[name], **where) for name in names},
        manifest=result.manifest,
        charts=charts,
        grids=[
            grid("What is operated on", about, listed, words=[1, 2, 3]),
            grid(f"{_name(part)}: effects [95 %]", columns, rows, shares(values)),
        ],
        labels=labels,
        notes=_operation_notes(result, part, [one["target"] for one in targets]),
    )


def _operation_notes(result: OutlierReport, part: Part, targets: Sequence[str]) -> list[str]:
    said = list(_small(result, part.model))
    if "largest channel" in targets:
        said.insert(
            0,
            "No definition found a massive scalar, an outlier channel or a super weight: the "
            "largest channel stands in, and is no outlier by any of them.",
        )
    said.append(
        f"Operations read {result.settings.operated} documents at most; means and bounds are of "
        "the others. Regrowth is the target’s size in the stream after each layer over its size "
        "unchanged: 0 is gone, 1 is back."
    )
    return said


def _regrowth(part: Part) -> tuple[list[dict[str, Any]], list[str]]:
    """A chart of each target's size downstream, a line an operation."""
    table = part.tables["operations-regrowth"]
    layers = sorted(set(table["layer"]))
    # The same lines in every chart, empty ones too: one key tells the colours of all.
    made = dict.fromkeys(zip(table["operation"], table["dose"], strict=True))
    charts = []
    for target in part.tables["operations-targets"]["target"]:
        own, lines = some(table, target=target), []
        for operation, dose in made:
            found = some(own, operation=operation, dose=dose)
            name = f"{operation} {dose:g}"
            lines.append(_course(name, found, layers, "ratio", "ratio_low", "ratio_high"))
        charts.append(chart(f"Regrowth of {target}", lines))
    return charts, [str(layer) for layer in layers]


def _small(result: OutlierReport, model: str) -> list[str]:
    size = result.parameters[result.models.index(model)]
    if size >= SMALL:
        return []
    return [f"{model} is small, {size:,} parameters: nothing here need hold for large models."]


def _estimate(line: Mapping[str, Any], name: str) -> str:
    """A column of a line with its interval."""
    return estimate(line[name], line[f"{name}_low"], line[f"{name}_high"])
