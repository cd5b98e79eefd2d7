"""From a study to the payload that the viewer draws: pooled, packed, plain JSON data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from laminogram.plans import Plan
from laminogram.plans.svg import svg
from laminogram.report.colour import palette
from laminogram.report.payload import EXACT_VALUES, encode_array
from laminogram.report.pooling import MAX_COLUMNS, Pooled, pool_channels, quantile_bands
from laminogram.report.scale import shared_scale
from laminogram.studies.layer_statistics import FORMULAS
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
        "frames": list(shown.frames),
        "sameTokens": study.same_tokens,
        "formulas": FORMULAS,
        "exact": shown.exact,
        "models": [
            _model(record, one, "f4" if shown.exact else "f2")
            for record, one in zip(study.records, shown.pooled, strict=True)
        ],
    }


def _model(record: ModelRecord, pooled: Pooled, kind: str) -> dict[str, Any]:
    tokens = pooled.values.shape[1]
    return {
        "name": record.name,
        "card": record.card,
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
        "statistics": _statistics(record.statistics),
        "peaks": _peaks(record),
        "reading": _reading(record),
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


def _statistics(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        name: {key: [plain_number(float(v)) for v in values] for key, values in statistics.items()}
        for name, statistics in sets.items()
    }


def _peaks(record: ModelRecord) -> list[dict[str, Any]]:
    return [
        {
            "row": peak.row,
            "label": record.labels[peak.row],
            "channel": peak.channel,
            "value": plain_number(peak.value),
            "token": peak.token,
        }
        for peak in record.peaks
    ]


def _reading(record: ModelRecord) -> dict[str, Any] | None:
    reading = record.reading
    if reading is None:
        return None
    return {
        "tokens": int(reading.losses.size),
        "nats": plain_number(reading.nats_per_token),
        "perplexity": plain_number(reading.perplexity),
        "bits_per_byte": plain_number(reading.bits_per_byte),
    }


def nonfinite_count(record: ModelRecord) -> int:
    """Return how many recorded values are not finite numbers."""
    return int(record.values.size - np.count_nonzero(np.isfinite(record.values)))
