"""The one scale that every model of a page is drawn on."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
