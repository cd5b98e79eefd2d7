"""From a study to the payload that the viewer draws: pooled, packed, plain JSON data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from laminogram.plans import Plan
from laminogram.plans.svg import svg
from laminogram.report.colour import palette
from laminogram.report.figures import count, number
from laminogram.report.page_tables import card, charts, study_tables
from laminogram.report.payload import EXACT_VALUES, encode_array
from laminogram.report.pooling import MAX_COLUMNS, Pooled, pool_channels, quantile_bands
from laminogram.report.scale import shared_scale, ticks
from laminogram.report.tables import slug
from laminogram.studies.recording import ModelRecord
from laminogram.studies.study import Study

PLAN_COLUMNS = 72
FRAME_TOKENS = 512
"""The page animates so many tokens at most; tables and statistics always hold all."""


def plain_number(value: float | None) -> float | str | None:
    """Return a number that JSON can hold: infinities as "inf" and "-inf", NaN as None."""
    if value is None or math.isnan(value):
        return None
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return float(value)


@dataclass(frozen=True)
class Shown:
    """What pages and stills draw of a study: its first tokens, pooled, on one scale for all."""

    study: Study
    pooled: tuple[Pooled, ...]
    scale: dict[str, dict[str, float]]
    frames: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, study: Study, columns: int = MAX_COLUMNS) -> Shown:
        """Pool wide models to `columns` by signed abs-max; the scale is of the unpooled values."""
        values = [record.values[:, :FRAME_TOKENS] for record in study.records]
        pooled = tuple(pool_channels(one, columns) for one in values)
        frames = tuple(frame for frame in study.frames if max(frame) < FRAME_TOKENS)
        return cls(study, pooled, shared_scale(values), frames)

    @property
    def exact(self) -> bool:
        """Whether a page keeps the values as float32: there are few enough of them."""
        return sum(pooled.values.size for pooled in self.pooled) <= EXACT_VALUES


def study_payload(study: Study, columns: int = MAX_COLUMNS) -> dict[str, Any]:
    """Return everything the page draws. Wide models are pooled to `columns` by signed abs-max."""
    shown = Shown.of(study, columns)
    return {
        "kind": "study",
        "site": study.site,
        "palette": palette(),
        "scale": shown.scale,
        "legend": {kind: _legend(shown, kind) for kind in shown.scale},
        "frames": list(shown.frames),
        "sameTokens": study.same_tokens,
        "file": f"{slug('-'.join(record.name for record in study.records))}-{study.site}",
        "exact": shown.exact,
        "charts": charts(study.records),
        "tables": study_tables(study.records),
        "models": [
            _model(record, one, "f4" if shown.exact else "f2")
            for record, one in zip(study.records, shown.pooled, strict=True)
        ],
    }


def _legend(shown: Shown, kind: str) -> dict[str, Any]:
    """The ticks of a scale, and what it is in words: `says`, and `clipped` where it clips."""
    one = shown.scale[kind]
    says = f"Linear, limit ±{number(one['limit'])}. "
    if kind == "symlog":
        says = (
            f"Symmetric logarithm: even in ratio beyond ±{number(one['threshold'], 2)}, linear "
            f"within; limit ±{number(one['limit'])}. "
        )
    found = [int(np.count_nonzero(np.abs(p.values) > one["limit"])) for p in shown.pooled]
    total, clipped = count(sum(pooled.values.size for pooled in shown.pooled)), ""
    if sum(found):
        clipped = f"{count(sum(found))} of {total} values lie beyond and are marked ▲▼"
        names = [record.name for record in shown.study.records]
        each = ", ".join(f"{name} {count(n)}" for name, n in zip(names, found, strict=True))
        # A line must not break inside a model's name.
        clipped += f" ({each}).".replace("-", "\u2011") if len(names) > 1 else "."
    else:
        says += f"None of the {total} values lies beyond it."
    return {"ticks": ticks(kind, shown.scale), "says": says, "clipped": clipped}


def _model(record: ModelRecord, pooled: Pooled, kind: str) -> dict[str, Any]:
    tokens = pooled.values.shape[1]
    return {
        "name": record.name,
        "card": card(record),
        "plan": _plan(record),
        "labels": list(record.labels),
        "channels": record.values.shape[2],
        "width": pooled.width,
        "values": encode_array(pooled.values, kind),
        "offsets": None if pooled.offsets is None else encode_array(pooled.offsets, "u2"),
        "bands": encode_array(quantile_bands(pooled.values), "f2"),
        "ids": list(record.token_ids[:tokens]),
        "texts": list(record.token_texts[:tokens]) if record.token_texts else None,
        "promptLength": record.prompt_length,
        "peaks": [{"row": peak.row, "channel": peak.channel} for peak in record.peaks],
    }


def _plan(record: ModelRecord) -> dict[str, str] | None:
    """A plan other than the full stack: its text, its cost and its picture."""
    said = record.manifest.get("plan")
    if not said or Plan.parse(said) == Plan.full(record.card["layers"]):
        return None
    plan = Plan.parse(said)
    cost = str(plan.cost())
    if record.manifest.get("kv") == "averaged":
        cost += ", keys and values of parallel layers averaged"
    return {"text": said, "cost": cost, "picture": svg(plan, PLAN_COLUMNS)}


def nonfinite_count(record: ModelRecord) -> int:
    """Return how many recorded values are not finite numbers."""
    return int(record.values.size - np.count_nonzero(np.isfinite(record.values)))
