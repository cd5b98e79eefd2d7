"""The painters' study as text: one table over middles, one over layers, and the heat map."""

from __future__ import annotations

import math

from rich.console import Console

from laminogram.evaluate.text import Estimate
from laminogram.report.console import Page, number
from laminogram.studies.painters.points import BY_LAYER, BY_MIDDLE, FULL, ITERATIONS
from laminogram.studies.painters.result import Painters


def print_painters(result: Painters, console: Console | None = None) -> None:
    """Every point with its measures, the heat map of iterations, and the layers by their cost."""
    page = Page(console)
    page.title(f"{result.model}: layers as painters")
    page.say(f"Text: {result.text}. In brackets: 95 per cent intervals over documents.")
    _points(page, result, (FULL, *BY_MIDDLE), "M", "affected")
    _points(page, result, (FULL, *BY_LAYER), "layer", "layer")
    _iterations(page, result)
    _layers(page, result)
    for one in result.measures:
        page.say(f"{one.key}: {one.meaning.title}; {one.meaning.says}.")
    for weak in result.at_chance:
        page.say(str(weak))
    for name, first, last in result.similarity.groups:
        page.say(f"{name}: states {first} to {last} (per-token cosine)")


def _points(
    page: Page, result: Painters, variants: tuple[str, ...], place: str, field: str
) -> None:
    rows = [
        [point.variant, "" if point.variant == FULL else str(getattr(point, field))]
        + [f"{point.layer_calls:g}"]
        + [_said(one.values[i]) for one in result.measures]
        for i, point in enumerate(result.points)
        if point.variant in variants
    ]
    if len(rows) > 1:
        page.table(["variant", place, "layer calls", *(one.key for one in result.measures)], rows)


def _iterations(page: Page, result: Painters) -> None:
    known = {
        (point.repeats, point.affected): value.value
        for point, value in zip(result.points, result.summary.values, strict=True)
        if point.variant == ITERATIONS
    }
    if not known:
        return
    middles = sorted({affected for _, affected in known if affected is not None})
    page.say(f"Iterations of the parallel middle: {result.summary.meaning.title}")
    rows = []
    for again in sorted({repeats for repeats, _ in known if repeats is not None}):
        values = [known[again, affected] for affected in middles]
        rows.append([str(again), *map(number, values), page.spark(values, 0, 1)])
    page.table(["iterations", *(f"M = {m}" for m in middles), "0 to 1:"], rows)


def _layers(page: Page, result: Painters) -> None:
    ranked, turned = result.ranking, result.influence
    order = range(len(result.labels)) if ranked is None else ranked.layers
    cost = {} if ranked is None else dict(zip(ranked.layers, ranked.cost, strict=True))
    name = "cost" if ranked is None else f"cost ({ranked.by.key})"
    page.table(
        ["layer", name, "Block Influence", "angular distance"],
        (
            [
                result.labels[layer],
                _said(cost[layer]) if layer in cost else "-",
                _said(turned.block_influence[layer]),
                number(float(turned.by_layer[layer])),
            ]
            for layer in order
        ),
    )
    if ranked is not None:
        agreed = ", ".join(f"{key} {number(value)}" for key, value in ranked.agreement.items())
        page.say(f"Dearest layer first. Rank correlation of the cost with {agreed}.")


def _said(value: Estimate) -> str:
    if math.isnan(value.low):
        return number(value.value)
    return f"{number(value.value)} [{number(value.low)}, {number(value.high)}]"
