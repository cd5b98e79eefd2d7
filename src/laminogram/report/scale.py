"""The one scale that every model of a page is drawn on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

LINEAR_QUANTILE = 0.999
SYMLOG_QUANTILE = 0.9
"""Most of a response lies in the linear part, so that it reads as a quiet ground for its spikes."""


def nice_above(value: float) -> float:
    """Return the smallest of 1, 1.5, 2, 3, 5, 7 x 10^n that is not below `value` (1 for zero)."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    for step in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0):
        if step * power >= value * (1 - 1e-12):
            return float(f"{step * power:.12g}")
    return float(f"{20 * power:.12g}")


def place(
    values: npt.NDArray[Any], kind: str, scale: Mapping[str, Mapping[str, float]]
) -> npt.NDArray[np.float64]:
    """Return where values stand on a scale, from -1 to 1; NaN stays NaN. As viewer/scale.js."""
    x = np.asarray(values, dtype=np.float64)
    limit = scale[kind]["limit"]
    if kind == "linear":
        return np.clip(x / limit, -1.0, 1.0)
    threshold = scale[kind]["threshold"]
    size = np.log1p(np.abs(x) / threshold) / np.log1p(limit / threshold)
    return np.asarray(np.sign(x) * np.minimum(1.0, size))


def ticks(kind: str, scale: Mapping[str, Mapping[str, float]]) -> list[float]:
    """Return the values that a legend names, the limit and zero first. As viewer/scale.js."""
    limit = scale[kind]["limit"]
    if kind == "linear":
        return [-limit, 0.0, limit, -limit / 2, limit / 2]
    positive: list[float] = []
    value = 10.0 ** math.floor(math.log10(limit))
    while len(positive) < 4 and (at := float(place(np.array(value), kind, scale))) > 0.15:
        if at < 0.86:
            positive.append(value)
        value /= 10
    return [-limit, 0.0, limit, *(-value for value in positive), *positive]


def shared_scale(arrays: Sequence[npt.NDArray[Any]]) -> dict[str, dict[str, float]]:
    """Return the `symlog` and `linear` scale of a page, from all finite values of all models.

    symlog: sign(x) log(1+|x|/threshold) / log(1+limit/threshold); its limit lies above the largest
    |x|, so it clips nothing; its threshold is the 90th percentile of |x|, rounded up.
    linear: its limit is the 99.9th percentile of |x|, rounded up; what lies beyond is clipped,
    marked and counted. Both percentiles are over the values of all models together.
    """
    magnitudes = [np.abs(a[np.isfinite(a)]).ravel() for a in arrays]
    joined = np.concatenate(magnitudes) if magnitudes else np.zeros(0)
    if not joined.size:
        joined = np.ones(1)
    limit = nice_above(float(joined.max()))
    bulk = float(np.quantile(joined, SYMLOG_QUANTILE))
    threshold = nice_above(bulk) if bulk > 0 else limit / 1000
    linear = nice_above(float(np.quantile(joined, LINEAR_QUANTILE)))
    return {
        "symlog": {"limit": limit, "threshold": min(threshold, limit)},
        "linear": {"limit": min(linear, limit)},
    }
