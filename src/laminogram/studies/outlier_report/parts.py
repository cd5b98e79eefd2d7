"""What the parts of a report are: each a function from a view and its input to tables."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from laminogram import outliers
from laminogram.errors import ConfigError, SiteError
from laminogram.outliers.base import Entry
from laminogram.outliers.definitions.super_weights import find_super_weights
from laminogram.outliers.needs import default_sites
from laminogram.probe.measuring import measure
from laminogram.probe.statistics.bootstrap import ALL, interval
from laminogram.probe.statistics.scales import Scales
from laminogram.probe.subject import Subject
from laminogram.studies.operation_targets import (
    Target,
    controls,
    massive_scalars,
    outlier_channels,
    super_weights,
)
from laminogram.studies.operations import operate
from laminogram.studies.outlier_report.settings import Rows, Settings, Views
from laminogram.studies.precision import precision
from laminogram.studies.reading import Tables

CHANNELS = 5
"""The largest channels that are listed of every place."""
STREAM = "resid_post"


def verdict_tables(view: Subject, rows: Rows, settings: Settings) -> Tables:
    """`outliers-verdicts`, `outliers-differ`, `outliers-definitions`: every definition at every
    layer, where two of them disagree, and what each is."""
    found = outliers.verdicts(
        view,
        rows,
        settings.chosen,
        replicates=settings.replicates,
        batch_size=settings.batch_size,
        progress=False,
    )
    table = found.table()
    halves = np.array(table.pop("halves"), dtype=float).reshape(-1, 2)
    differing: dict[str, list[Any]] = {name: [] for name in DIFFER}
    for line in found.differ():
        entries = (line["first_entry"], line["second_entry"])
        values = [*(line[name] for name in DIFFER[:5]), *map(_told, entries)]
        for name, value in zip(DIFFER, values, strict=True):
            differing[name].append(value)
    about = found.about()
    return {
        "outliers-verdicts": table | {"half_1": halves[:, 0], "half_2": halves[:, 1]},
        "outliers-differ": differing,
        "outliers-definitions": {name: [one[name] for one in about] for name in about[0]},
    }


DIFFER = (
    "first",
    "second",
    "where",
    "first_verdict",
    "second_verdict",
    "first_says",
    "second_says",
)
"""The columns of `outliers-differ`; `where` is a layer."""


def _told(entry: Entry) -> str:
    return f"{entry.quantity} {entry.value:.4g} at {entry.site}, step {entry.step}"


def channel_tables(view: Subject, rows: Rows, settings: Settings) -> Tables:
    """`outliers-channels`: of every place the channels with the largest |x|, that over the median
    channel's, and their intervals over documents."""
    sites = [site for site in default_sites(view) if site in (STREAM, "ffn_out", "attn_out")]
    measured = measure(
        view,
        rows,
        (Scales(settings.replicates),),
        sites,
        batch_size=settings.batch_size,
        progress=False,
    )
    lines = []
    for name, site, step in measured:
        absmax = measured[name, site, step].result()["absmax"]
        ratio = absmax / np.median(absmax, axis=1, keepdims=True)
        ends, ratio_ends = interval(absmax), interval(ratio)
        order = np.argsort(-absmax[ALL], kind="stable")[:CHANNELS]
        for rank, channel in enumerate(order.tolist(), 1):
            line: dict[str, Any] = {"site": site, "step": step}
            line |= {"layer": measured.step_layers[step][0], "rank": rank, "channel": channel}
            for name_, values, (low, high) in (
                ("absmax", absmax, ends),
                ("ratio", ratio, ratio_ends),
            ):
                line |= {
                    name_: float(values[ALL, channel]),
                    f"{name_}_low": float(low[channel]),
                    f"{name_}_high": float(high[channel]),
                }
            lines.append(line)
    return {"outliers-channels": {key: [line[key] for line in lines] for key in lines[0]}}


def precision_tables(views: Views, name: str, rows: Rows, settings: Settings) -> Tables:
    """The tables of `studies.precision` for one precision against the first."""
    found = precision(
        views.first,
        rows,
        [name],
        reference=views.names[0],
        seeds=range(settings.seeds),
        new_tokens=settings.new_tokens,
        batch_size=settings.batch_size,
        progress=False,
    )
    tables = found.tables()
    return {
        kind: {k: v for k, v in table.items() if k not in ("precision", "input")}
        for kind, table in tables.items()
        if kind != "precision-formats"
    }


def operation_tables(view: Subject, rows: Rows, settings: Settings) -> Tables:
    """The tables of `studies.operations` for what `targets_of` finds, and `operations-targets`.

    Every condition is a run of its own, so only `settings.operated` documents are read; means and
    bounds are of the others where there are any.
    """
    rest, rows = rows[settings.operated :], rows[: settings.operated]
    targets = targets_of(view, rows, settings.batch_size)
    every = [
        one
        for target in targets
        for one in (target, *controls(view, rows, target, draws=settings.draws))
    ]
    found = operate(
        view,
        rows,
        every,
        settings.edits,
        calibration=rest or rows,
        batch_size=settings.batch_size,
        progress=False,
    )
    listed: dict[str, list[Any]] = {
        "target": [one.name for one in targets],
        "site": [one.site for one in targets],
        "layers": [", ".join(map(str, one.layers)) for one in targets],
        "channels": [", ".join(map(str, one.channels[:16])) for one in targets],
        "count": [len(one.entries or one.channels) for one in targets],
    }
    return found.tables() | {"operations-targets": listed}


def targets_of(view: Subject, rows: Rows, batch_size: int = 8) -> list[Target]:
    """What is operated on: massive scalars, outlier channels of the layer whose largest channel
    stands out most, super weights.

    Where no definition finds any, the largest channel of that layer, named so: it shows what an
    operation does, and is no outlier by the definitions.
    """
    found: list[Target] = []
    scalars = massive_scalars(view, rows, batch_size=batch_size)
    if scalars is not None:
        found.append(scalars)
    layer, channel = _most(view, rows, batch_size)
    with suppress(ConfigError):  # too narrow for any channel to lie six sigmas out
        channels = outlier_channels(view, rows, layer, batch_size=batch_size)
        found += [] if channels is None else [channels]
    found += _weights(view, rows)
    if not found:
        found.append(Target("largest channel", STREAM, (layer,), (channel,)))
    return found


def _most(view: Subject, rows: Rows, batch_size: int) -> tuple[int, int]:
    """The layer whose largest channel is the most times its median one, and that channel."""
    measured = measure(view, rows, (Scales(0),), STREAM, batch_size=batch_size, progress=False)
    best, place = -1.0, (0, 0)
    for name, site, step in measured:
        absmax = measured[name, site, step].result()["absmax"][ALL]
        median = float(np.median(absmax))
        ratio = float(absmax.max()) / median if median else 0.0
        if ratio > best:
            best, place = ratio, (measured.step_layers[step][0], int(absmax.argmax()))
    return place


def _weights(view: Subject, rows: Sequence[Sequence[int]]) -> list[Target]:
    try:
        places = find_super_weights(view, [list(rows[0])])
    except (ConfigError, SiteError):  # no dense down projection: no such weights
        return []
    return [super_weights(places)] if places else []
