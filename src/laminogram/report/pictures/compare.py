"""A comparison as pictures: outputs, states by layer and site, and distributions beside a null."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from laminogram.evaluate.divergence import Estimate
from laminogram.report.charts import chart, charts_picture, estimate, grid, series, shares, some
from laminogram.report.figures import number
from laminogram.report.picture import Picture
from laminogram.studies.compare.result import Comparison, Pair, SitePair

RESULT = "Comparison"
_NONE = Estimate(math.nan, math.nan, math.nan)


def picture(result: Comparison) -> Picture:
    """Return the first picture of a `studies.compare.Comparison`: what the outputs differ in."""
    return pictures(result)[0]


def pictures(result: Comparison) -> list[Picture]:
    """Return the outputs, then of each condition its states and its distributions."""
    drawn = [_outputs(result)]
    for pair in result.pairs:
        if any(one.error or one.cka for one in pair.places):
            drawn.append(_states(result, pair))
        drawn.append(_distributions(result, pair))
    return drawn


def _outputs(result: Comparison) -> Picture:
    names = dict.fromkeys(one.measure for pair in result.pairs for one in pair.outputs)
    meanings = {one.measure: one.meaning for pair in result.pairs for one in pair.outputs}
    rows = []
    for name in names:
        found = [{one.measure: one.estimate for one in pair.outputs} for pair in result.pairs]
        cells = [_told(known[name]) if name in known else "n/a" for known in found]
        rows.append([meanings[name], *cells])
    columns = ["measure", *(pair.other for pair in result.pairs)]
    caption = f"Beside {result.labels[0]}: value [95 % interval over documents]"
    tables = result.tables()
    return charts_picture(
        "compare",
        "Outputs",
        result.model,
        f"What each condition predicts, beside {result.labels[0]}, over {result.documents} "
        f"documents, {result.tokens:,} tokens, teacher forced.",
        " ".join(_said(pair) for pair in result.pairs),
        {name: tables[name] for name in ("compare-outputs", "compare-conditions") if tables[name]},
        manifest=result.manifest,
        grids=[grid(caption, columns, rows)] if rows else [],
        notes=(*(note for pair in result.pairs for note in pair.notes), *_about(result)),
    )


def _states(result: Comparison, pair: Pair) -> Picture:
    labels = list(dict.fromkeys(one.match.label for one in pair.places))
    if any(one.cka for one in pair.places):
        measures: list[tuple[str, Callable[[SitePair], Estimate | None], str]] = [
            ("CKA of states", lambda one: one.cka, "probability")
        ]
    else:
        measures = [
            ("Relative error of a token’s state", lambda one: one.error, "linear"),
            ("1 − cosine of a token’s states", lambda one: one.distance, "linear"),
        ]
    title, read, _ = measures[0]
    heat, places = _heat(pair, labels, read)
    notes = [f"Steps are matched by {_rule(pair)}."]
    if pair.places[0].cka:
        null = [one.cka_null for one in pair.places]
        notes.append(
            f"With shuffled tokens CKA is {number(min(null), 2)} to {number(max(null), 2)}: what "
            "lies there says nothing."
        )
    return charts_picture(
        "compare",
        f"States: {pair.other}",
        result.model,
        f"How far the states of {pair.other} lie from those of {pair.reference}, layer by layer "
        "and site by site; bars and brackets are 95 % intervals over documents.",
        _most(pair, labels, read, title),
        {"compare-sites": some(result.tables()["compare-sites"], other=pair.other)},
        manifest=result.manifest,
        charts=[chart(said, _lines(pair, labels, take), kind) for said, take, kind in measures],
        grids=[grid(f"{title}, layer by site", ["layer", *pair.sites], heat, places)],
        labels=labels,
        notes=notes,
    )


def _distributions(result: Comparison, pair: Pair) -> Picture:
    labels = list(dict.fromkeys(one.match.label for one in pair.places))
    known = _by_place(pair)
    lines = _lines(pair, labels, lambda one: one.shift.jsd)
    for site in pair.sites:
        found = [known[site, label].shift.null_high for label in labels if (site, label) in known]
        if len(found) == len(labels):
            lines.append(series(f"{site}: null, 95 %", found))
    values = [[_jsd(known, site, label) for site in pair.sites] for label in labels]
    cells = [[_beside(known, site, label) for site in pair.sites] for label in labels]
    rows = [[label, *row] for label, row in zip(labels, cells, strict=True)]
    beyond = [one for one in pair.places if one.shift.crossed > one.shift.null_high]
    return charts_picture(
        "compare",
        f"Distributions of |x|: {pair.other}",
        result.model,
        f"Jensen-Shannon divergence, in nats, of the distributions of |x| / {result.scale} of "
        f"{pair.other} and {pair.reference}, in bins {result.bin_width - 1:.0%} wide.",
        f"Between halves of the documents, {pair.other} lies beyond the 95 % quantile of the null "
        f"at {len(beyond)} of {len(pair.places)} places.",
        {"compare-distributions": some(result.tables()["compare-sites"], other=pair.other)},
        manifest=result.manifest,
        charts=[chart("Divergence and its null", lines, "log")],
        grids=[
            grid(
                "Divergence [interval]; crossed halves against the null’s mean and 95 % quantile",
                ["layer", *pair.sites],
                rows,
                shares(values),
            )
        ],
        labels=labels,
        notes=(
            "The null is the divergence of two halves of the documents, both in "
            f"{pair.reference}, over random splits; crossed has the second half in {pair.other}. "
            "On the same tokens the divergence itself may lie far below the null, as nothing but "
            "the condition differs.",
            f"Steps are matched by {_rule(pair)}.",
        ),
    )


def _lines(
    pair: Pair, labels: Sequence[str], read: Callable[[SitePair], Estimate | None]
) -> list[dict[str, object]]:
    known = _by_place(pair)
    lines = []
    for site in pair.sites:
        found = [
            (read(known[site, label]) or _NONE) if (site, label) in known else _NONE
            for label in labels
        ]
        ends = [one.low for one in found], [one.high for one in found]
        lines.append(series(site, [one.value for one in found], *ends))
    return lines


def _heat(
    pair: Pair, labels: Sequence[str], read: Callable[[SitePair], Estimate | None]
) -> tuple[list[list[str]], list[list[float | None]]]:
    known = _by_place(pair)
    rows, values = [], []
    for label in labels:
        found = [
            (read(known[site, label]) or _NONE) if (site, label) in known else _NONE
            for site in pair.sites
        ]
        rows.append([label, *map(_told, found)])
        values.append([one.value for one in found])
    return rows, shares(values)


def _by_place(pair: Pair) -> dict[tuple[str, str], SitePair]:
    return {(one.match.site, one.match.label): one for one in pair.places}


def _jsd(known: dict[tuple[str, str], SitePair], site: str, label: str) -> float:
    one = known.get((site, label))
    return math.nan if one is None else one.shift.jsd.value


def _beside(known: dict[tuple[str, str], SitePair], site: str, label: str) -> str:
    one = known.get((site, label))
    if one is None:
        return "n/a"
    shift = one.shift
    crossed, null, high = (number(x, 2) for x in (shift.crossed, shift.null, shift.null_high))
    return f"{_told(shift.jsd)}; {crossed} against {null}, {high}"


def _told(one: Estimate) -> str:
    return estimate(one.value, one.low, one.high)


def _rule(pair: Pair) -> str:
    if pair.rule == "layers":
        return "layer, as both have equally many"
    return "relative depth, as the models have different numbers of layers"


def _most(
    pair: Pair,
    labels: Sequence[str],
    read: Callable[[SitePair], Estimate | None],
    title: str,
) -> str:
    known = [(read(one) or _NONE, one.match) for one in pair.places]
    found, match = max(known, key=lambda one: -1.0 if math.isnan(one[0].value) else one[0].value)
    return f"{title} is largest at {match.site} of layer {match.label}: {_told(found)}."


def _said(pair: Pair) -> str:
    known = {one.measure: one.estimate for one in pair.outputs}
    if "kl" in known:
        return (
            f"{pair.other} lies KL {_told(known['kl'])} nats a token from {pair.reference} and "
            f"{_told(known['kl_reverse'])} the other way; they agree on the likeliest token at "
            f"{known['agreement'].value:.1%} of tokens."
        )
    if "bits_per_byte" in known:
        return f"{pair.other} needs {_told(known['bits_per_byte'])} bits a byte."
    return f"The outputs of {pair.other} are not compared."


def _about(result: Comparison) -> tuple[str, ...]:
    said = []
    if result.documents < 2:
        said.append(
            "There is one document only: nothing can be resampled, so there are no intervals."
        )
    if result.small:
        names = ", ".join(result.small)
        said.append(f"Small models ({names}): nothing here need hold for large ones.")
    return tuple(said)
