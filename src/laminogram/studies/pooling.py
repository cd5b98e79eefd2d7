"""Pooling that loses no outlier: of neighbours, the value largest in size stands, with its sign."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def strongest(
    x: npt.NDArray[Any], width: int, axis: int = -1
) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Pool an axis by blocks of `width`: the values, and the index along the axis of each.

    The last block may be shorter. Of equals the first stands; a NaN wins over every number.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, not {width}")
    moved = np.moveaxis(x, axis, -1)
    size = moved.shape[-1]
    count = -(-size // width)
    # Zeros at the end of the last block never win over a real value, which comes first.
    padded = np.zeros((*moved.shape[:-1], count * width), moved.dtype)
    padded[..., :size] = moved
    blocks = padded.reshape(*moved.shape[:-1], count, width)
    where = np.abs(blocks).argmax(-1)
    values = np.take_along_axis(blocks, where[..., None], -1)[..., 0]
    places = where + np.arange(count) * width
    return np.moveaxis(values, -1, axis), np.moveaxis(places, -1, axis)
