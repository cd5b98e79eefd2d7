"""Fewer columns than channels, without losing an outlier: the value largest in size stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from laminogram.studies.pooling import strongest

MAX_COLUMNS = 512


@dataclass(frozen=True)
class Pooled:
    """Pooled values and, for each, which channel of its block it is."""

    values: npt.NDArray[Any]
    """(..., columns), of the input's type."""
    offsets: npt.NDArray[np.uint16] | None
    """(..., columns): channel = column * width + offset; None where nothing was pooled."""
    width: int
    """Channels per column; the last column may hold fewer."""


def pool_channels(x: npt.NDArray[Any], columns: int = MAX_COLUMNS) -> Pooled:
    """Pool the last axis to at most `columns` by signed abs-max.

    Blocks of equal width stand for neighbouring channels; each gives its value of largest
    magnitude with its sign (the first one where several tie; a NaN wins over every number).
    """
    channels = x.shape[-1]
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    if channels <= columns:
        return Pooled(x, None, 1)
    width = -(-channels // columns)
    values, places = strongest(x, width)
    offsets = places - np.arange(places.shape[-1]) * width
    return Pooled(values, offsets.astype(np.uint16), width)


QUANTILES = (0.0, 0.05, 0.25, 0.75, 0.95, 1.0)


def quantile_bands(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the `QUANTILES` over tokens of (L, T, columns), as (quantile, L, columns) float32.

    Values that are not finite are left out; a column without a finite value gives zeros.
    """
    finite = np.isfinite(values)
    if finite.all():
        return np.quantile(values, QUANTILES, axis=1).astype(np.float32)
    bands = np.quantile(np.where(finite, values, 0), QUANTILES, axis=1).astype(np.float32)
    for row, column in np.argwhere(~finite.all(axis=1)):
        known = values[row, finite[row, :, column], column]
        bands[:, row, column] = np.quantile(known, QUANTILES) if known.size else 0.0
    return bands
