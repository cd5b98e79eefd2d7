"""The painters' study as pictures: curves over layers and middles, the heat map, the ranking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from laminogram.evaluate.text import Estimate
from laminogram.report.figures import number
from laminogram.report.page_data import plain_number
from laminogram.report.page_tables import table
from laminogram.report.picture import Picture, packed
from laminogram.studies.painters.measures import Measure
from laminogram.studies.painters.points import BY_LAYER, BY_MIDDLE, FULL, ITERATIONS
from laminogram.studies.painters.result import Painters

RESULT = "Painters"
_HIDDEN = "perplexity"
"""What tables hold and no chart shows: it says what the loss says."""


def picture(result: Painters) -> Picture:
    """Return the summary picture of a `studies.painters.Painters`, or its first one without it."""
    drawn = pictures(result)
    return next((one for one in drawn if one.title.startswith("Summary")), drawn[0])


def pictures(result: Painters) -> list[Picture]:
    """Return every picture: those whose variants were run, and what is read off the stream."""
    drawn = []
    if _middles(result):
        drawn += [_summary(result), _sweeps(result)]
    if _variants(result, BY_LAYER):
        drawn.append(_by_layer(result))
    if ITERATIONS in result.variants:
        drawn.append(_iterations(result))
    return [*drawn, _influence(result)]


def _summary(result: Painters) -> Picture:
    both = (result.summary, result.pace)
    return _picture(
        result,
        "Summary of the variants",
        "How much of the full model each variant keeps, over the number M of layers in its middle: "
        "1 is the full model, 0 is chance; and how long it takes. Point at a place for the values "
        "and their intervals.",
        " ".join(_best(result, one) for one in both),
        {"summary": _only(result.some(FULL, *BY_MIDDLE), *both)},
        axis="M",
        labels=_middles(result),
        charts=[_chart(result, one, BY_MIDDLE) for one in both],
        notes=(*(f"{one.meaning.title}: {one.meaning.says}." for one in both), *_left_out(result)),
    )


def _sweeps(result: Painters) -> Picture:
    shown = [one for one in _shown(result) if one not in (result.summary, result.pace)]
    said = [_SAID[variant] for variant in _variants(result, BY_MIDDLE)]
    return _picture(
        result,
        "Every sweep over the middle",
        f"The same variants by every measure. The middle: {', '.join(said)}.",
        " ".join(_best(result, one) for one in shown),
        {"sweeps": result.some(FULL, *BY_MIDDLE)},
        axis="M",
        labels=_middles(result),
        charts=[_chart(result, one, BY_MIDDLE) for one in shown],
        notes=_meanings(result),
    )


def _by_layer(result: Painters) -> Picture:
    said = [_SAID[variant] for variant in _variants(result, BY_LAYER)]
    return _picture(
        result,
        "One layer left out, two swapped",
        f"What is left where a single layer {' and where it '.join(said)}. Click a layer to select "
        "it in every picture.",
        _dearest(result),
        {"by-layer": result.some(FULL, *BY_LAYER)},
        axis="layer",
        labels=result.labels,
        charts=[_chart(result, one, BY_LAYER) for one in _shown(result)],
        notes=_meanings(result),
    )


def _iterations(result: Painters) -> Picture:
    points = [point for point in result.points if point.variant == ITERATIONS]
    repeats = sorted({point.repeats or 0 for point in points})
    middles = sorted({point.affected or 0 for point in points})
    summary = result.summary
    known = {
        (point.repeats, point.affected): value.value
        for point, value in zip(result.points, summary.values, strict=True)
        if point.variant == ITERATIONS
    }
    grid = np.array([[known[again, affected] for affected in middles] for again in repeats])
    best = np.nanargmax(grid, axis=0) if np.isfinite(grid).all() else np.zeros(len(middles), int)
    said = ", ".join(f"{repeats[row]} for M = {m}" for m, row in zip(middles, best, strict=True))
    return _picture(
        result,
        "Iterations of parallel layers",
        "The middle in parallel, again and again: rows are iterations, columns how many layers run "
        "in parallel. The best number of iterations of each column is marked.",
        f"The best number of iterations: {said}.",
        {"iterations": _only(result.some(ITERATIONS), summary)},
        grids=[_grid(summary, grid, repeats, middles, best)],
        notes=(f"{summary.meaning.title}: {summary.meaning.says}.",),
    )


def _influence(result: Painters) -> Picture:
    turned, layers = result.influence, list(result.labels)
    charts = [
        {
            "title": "Block Influence",
            "kind": "linear",
            "series": [_series("Block Influence", turned.block_influence)],
        },
        {
            "title": "Angular distance of the last token, a share of half a turn",
            "kind": "linear",
            "series": [{"name": "angular distance", "values": packed(turned.by_layer)}],
        },
    ]
    agreement = ""
    ranked = result.ranking
    if ranked is not None:
        cost = dict(zip(ranked.layers, ranked.cost, strict=True))
        ordered = [cost[layer] for layer in range(len(layers))]
        title = f"Cost of its absence: {ranked.by.title}"
        series = [_series("cost of its absence", ordered)]
        charts.append({"title": title, "kind": "linear", "series": series})
        agreement = "Rank correlation of the cost with " + " and ".join(
            f"{name.replace('_', ' ')} {number(value, 2)}"
            for name, value in ranked.agreement.items()
        )
    return _picture(
        result,
        "What each layer does to the stream",
        "How far a layer turns its input, and what its absence costs, the dearest layer first in "
        "the table.",
        _dearest(result),
        {"layers": result.layers(), "angular": result.tables()["painters-angular"]},
        axis="layer",
        labels=layers,
        charts=charts,
        grids=[] if ranked is None else [_ranking(result)],
        notes=(agreement and f"{agreement}.", *(f"{said}." for said in result.sources.values())),
    )


def _picture(
    result: Painters,
    title: str,
    caption: str,
    alt: str,
    tables: Mapping[str, Mapping[str, Any]],
    *,
    axis: str = "layer",
    labels: Sequence[Any] = (),
    charts: Sequence[Mapping[str, Any]] = (),
    grids: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
) -> Picture:
    data = {"axis": axis, "labels": [str(one) for one in labels], "charts": charts, "grids": grids}
    first = next(iter(tables.values()))
    return Picture(
        kind="painters",
        title=title,
        caption=caption,
        alt=alt,
        model=result.model,
        data=data,
        tables={f"painters-{name}": columns for name, columns in tables.items()},
        notes=(f"Text: {result.text}.", *notes),
        tokens=result.tokens,
        manifest=result.manifest,
        csv=_csv(first),
    )


_SAID = {
    "skip_one": "does not run",
    "swap": "changes places with the next",
    "skip": "left out",
    "middle_repeat": "the centre layer in place of each",
    "parallel": "all in parallel",
    "reverse": "reversed",
    "random": "shuffled (mean over seeds)",
    "looped": "parallel three times",
}
"""What a variant does with a layer, or with the middle."""


def _csv(columns: Mapping[str, Any]) -> list[list[Any]]:
    lists = [list(column) for column in columns.values()]
    rows = ([_cell(column[i]) for column in lists] for i in range(len(lists[0])))
    return [list(columns), *rows]


def _cell(value: Any) -> Any:
    return plain_number(float(value)) if isinstance(value, float | np.floating) else value


def _shown(result: Painters) -> list[Measure]:
    return [one for one in result.measures if one.key != _HIDDEN]


def _variants(result: Painters, among: Sequence[str]) -> list[str]:
    return [one for one in among if one in result.variants]


def _middles(result: Painters) -> list[int]:
    """How many layers the middles have, ascending, where the middle was changed."""
    found = (one.affected for one in result.points if one.variant in BY_MIDDLE)
    return sorted({one for one in found if one is not None})


def _chart(result: Painters, measure: Measure, among: Sequence[str]) -> dict[str, Any]:
    """A line for each variant, over layers or over middles."""
    where = _middles(result) if among is BY_MIDDLE else list(range(len(result.labels)))
    meaning, series = measure.meaning, []
    for variant in _variants(result, among):
        known = {
            point.affected if among is BY_MIDDLE else point.layer: value
            for point, value in zip(result.points, measure.values, strict=True)
            if point.variant == variant
        }
        missing = Estimate(math.nan, math.nan, math.nan)
        series.append(_series(variant.replace("_", " "), [known.get(i, missing) for i in where]))
    title = f"{meaning.title} (full model {number(measure.values[0].value)})"
    about = f"point at a {'middle' if among is BY_MIDDLE else 'layer'} to read its values"
    return {"title": title, "kind": meaning.kind, "series": series, "about": about}


def _series(name: str, values: Sequence[Estimate]) -> dict[str, Any]:
    return {
        "name": name,
        "values": packed([one.value for one in values]),
        "low": packed([one.low for one in values]),
        "high": packed([one.high for one in values]),
    }


def _grid(
    measure: Measure,
    grid: np.ndarray,
    repeats: Sequence[int],
    middles: Sequence[int],
    best: np.ndarray,
) -> dict[str, Any]:
    """A table with the place of every cell between the least and the largest of all."""
    low, high = float(np.nanmin(grid)), float(np.nanmax(grid))
    places = (grid - low) / (high - low) if high > low else np.zeros_like(grid)
    rows = [
        [again, *(f"{'▸ ' if best[j] == i else ''}{number(v, 3)}" for j, v in enumerate(row))]
        for i, (again, row) in enumerate(zip(repeats, grid.tolist(), strict=True))
    ]
    columns = ["iterations", *(f"M = {m}" for m in middles)]
    known = [[plain_number(place) for place in row] for row in places.tolist()]
    return {**table(measure.meaning.title, columns, rows), "places": known}


def _ranking(result: Painters) -> dict[str, Any]:
    ranked = result.ranking
    assert ranked is not None
    turned = result.influence
    rows = [
        [
            place + 1,
            result.labels[layer],
            number(cost.value),
            f"{number(cost.low)} to {number(cost.high)}",
            number(turned.block_influence[layer].value),
            number(float(turned.by_layer[layer])),
        ]
        for place, (layer, cost) in enumerate(zip(ranked.layers, ranked.cost, strict=True))
    ]
    columns = ["rank", "layer", "cost", "95 % interval", "Block Influence", "angular distance"]
    drawn = table(f"Layers by what their absence costs: {ranked.by.title}", columns, rows)
    return {**drawn, "places": [[None] * (len(columns) - 1) for _ in rows]}


def _only(columns: Mapping[str, Any], *measures: Measure) -> dict[str, Any]:
    """The columns that say what was run, and those of some measures."""
    own = {f"{one.key}{end}" for one in measures for end in ("", "_low", "_high", "_spread")}
    said = {"variant", "layer", "affected", "repeats", "plans", "layer_calls"}
    return {name: column for name, column in columns.items() if name in own | said}


def _meanings(result: Painters) -> tuple[str, ...]:
    said = " ".join(f"{one.meaning.title}: {one.meaning.says}." for one in _shown(result))
    return (f"{said} Intervals are 95 per cent, over documents.", *_left_out(result))


def _left_out(result: Painters) -> tuple[str, ...]:
    said = [str(one) for one in result.at_chance]
    said += [f"{name}: its metric has no chance to start from" for name in result.not_normalised]
    return (f"Not in the median: {'; '.join(said)}.",) if said else ()


def _best(result: Painters, measure: Measure) -> str:
    """The variants in their order where the middle is largest."""
    middles = _middles(result)
    found = [
        (value.value, point.variant.replace("_", " "))
        for point, value in zip(result.points, measure.values, strict=True)
        if point.variant in BY_MIDDLE and point.affected == middles[-1]
    ]
    found.sort(reverse=measure.meaning.higher_is_better)
    said = ", ".join(f"{name} {number(value, 3)}" for value, name in found)
    return f"{measure.meaning.title}, best first, with {middles[-1]} layers in the middle: {said}."


def _dearest(result: Painters) -> str:
    ranked = result.ranking
    if ranked is None:
        turned = [one.value for one in result.influence.block_influence]
        most = int(np.argmax(turned))
        return f"Layer {most} turns the stream most: Block Influence {number(turned[most], 3)}."
    named = ", ".join(
        f"{result.labels[layer]} ({number(cost.value, 3)})"
        for layer, cost in zip(ranked.layers, ranked.cost, strict=True)
    )
    return f"Layers by what their absence costs ({ranked.by.title}), the dearest first: {named}."
