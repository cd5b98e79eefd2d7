"""Attention as a picture: a small map of every head, and one large."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laminogram.report.figures import number, token_names
from laminogram.report.payload import encode_array
from laminogram.report.picture import Picture, packed, plain
from laminogram.studies.attention import AttentionMaps
from laminogram.studies.pooling import strongest

RESULT = "AttentionMaps"
PAGE_VALUES = 2**22
"""The page holds so many weights at most; the tables beside it hold all."""
EXACT = 1_000_000


def picture(result: AttentionMaps) -> Picture:
    """Return the picture of a `studies.attention.AttentionMaps`."""
    pattern, pooled = result.pattern, result.pooled
    while pattern.size > PAGE_VALUES and pattern.shape[-1] > 8:
        pattern = strongest(strongest(pattern, 2, axis=2)[0], 2, axis=3)[0]
        pooled *= 2
    notes = [result.note] if result.note else []
    if pooled != result.pooled:
        notes.append(
            f"{result.pattern.shape[0]} layers of {result.pattern.shape[1]} heads are many: on the "
            f"page a cell stands for {pooled} x {pooled} tokens, the weight largest in size; the "
            f"tables hold {result.pooled} x {result.pooled}."
        )
    data: dict[str, Any] = {
        "names": [
            name + "…" * (pooled > 1)
            for name in token_names(result.tokens)[::pooled][: pattern.shape[-1]]
        ],
        "pattern": packed(pattern) if pattern.size <= EXACT else encode_array(pattern, "f2"),
        "pooled": pooled,
        "signed": not result.normalised,
        "says": _says(result, pattern),
    }
    return Picture.of(
        result,
        kind="attention",
        title="Attention",
        caption=(
            "Which earlier tokens each token reads. Every small map is one head; click one to see "
            "it large. In the large map a row reads, a column is read: point at it for the "
            "weight, click to keep a pair, move it with the arrow keys."
        ),
        alt=_alt(result),
        data=data,
        notes=tuple(notes),
    )


def _says(result: AttentionMaps, pattern: npt.NDArray[Any]) -> str:
    """What the colours mean."""
    said = f"Colour: {result.meaning}, on a square-root scale"
    if result.normalised:
        return f"{said} from 0 to 1."
    finite = np.abs(pattern[np.isfinite(pattern)])
    limit = float(finite.max()) if finite.size else 0.0
    return f"{said}, both signs, to ±{number(limit or 1.0, 3)}."


def _alt(result: AttentionMaps) -> str:
    rows, heads, cells, _ = result.pattern.shape
    said = f"Maps of {rows} layers and {heads} heads, {cells} by {cells} cells ({result.meaning})."
    first = _first_column(result.pattern)
    if np.isfinite(first).any() and cells > 1:
        row, head = np.unravel_index(int(np.nanargmax(first)), first.shape)
        said += (
            f" The head that reads the first token {plain(result.tokens[0])} most is head {head} "
            f"of layer {result.labels[int(row)]}, with a mean weight of {first[row, head]:.3g}."
        )
    return said


def _first_column(pattern: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The mean size of the weight of the first cell, over the later cells, (R, H)."""
    later = np.abs(pattern[:, :, 1:, 0].astype(np.float64))
    return later.mean(-1) if later.shape[-1] else np.full(pattern.shape[:2], np.nan)
