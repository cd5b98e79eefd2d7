"""Where one model stands on a still, and its values no wider than there are pixels.

Lengths are in pixels of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from laminogram.report.pooling import Pooled
from laminogram.studies.recording import ModelRecord

GUTTER, EDGE = 44, 10
NAME, STRIP, TICKS = 24, 26, 22
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Panel:
    """Where one model is drawn, and its data."""

    record: ModelRecord
    pooled: Pooled
    left: int
    top: int
    wide: int
    row_height: float
    heat_row: int
    own_strip: bool

    @property
    def rows(self) -> int:
        return int(self.pooled.values.shape[0])

    @property
    def columns(self) -> int:
        return int(self.pooled.values.shape[2])

    @property
    def swing(self) -> float:
        return max(self.row_height * 1.15, 26.0)

    @property
    def trace_top(self) -> float:
        return self.top + NAME + (STRIP if self.own_strip else 0) + 4

    @property
    def heat_top(self) -> int:
        below = 2 * self.swing + (self.rows - 1) * self.row_height + 10
        return int(np.ceil(self.trace_top + below))

    @property
    def bottom(self) -> int:
        return self.heat_top + self.rows * self.heat_row + TICKS

    def base(self, row: int) -> float:
        return self.trace_top + self.swing + row * self.row_height

    def x(self, column: float, of: int) -> float:
        return self.left + GUTTER + (column + 0.5) * self.wide / of

    @property
    def labels(self) -> list[str]:
        return [label.replace(" (step ", "@").rstrip(")") for label in self.record.labels]


def reduced(values: Floats, room: int) -> Floats:
    """Return (rows, columns) at most `room` wide, each place the value largest in size."""
    columns = values.shape[1]
    if columns <= room:
        return values
    edges = np.arange(room + 1) * columns // room
    width = int(np.diff(edges).max())
    index = np.minimum(edges[:-1, None] + np.arange(width), edges[1:, None] - 1)
    blocks = values[:, index]
    where = np.abs(blocks).argmax(axis=-1)
    return np.take_along_axis(blocks, where[..., None], axis=-1)[..., 0]
