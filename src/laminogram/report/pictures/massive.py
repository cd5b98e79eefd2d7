"""Massive activations as a picture: one layer's magnitudes as a surface, all layers as lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from laminogram.report.figures import number, token_names
from laminogram.report.page_data import plain_number
from laminogram.report.page_tables import table
from laminogram.report.payload import EXACT_VALUES, encode_array
from laminogram.report.picture import Picture, packed, plain
from laminogram.studies.massive import Massive
from laminogram.studies.pooling import strongest

RESULT = "Massive"
RIDGES = 128
"""Lines of the surface at most: of a longer text each stands for a few tokens."""
_NAMED = 3


def picture(result: Massive) -> Picture:
    """Return the picture of a `studies.massive.Massive`."""
    bunch = -(-len(result.tokens) // RIDGES)
    surface, tokens = strongest(np.asarray(result.surface), bunch, axis=0)
    exact = surface.size <= EXACT_VALUES
    wide = [min(first + result.pooled, result.channels) - 1 for first in _first(result, surface)]
    data: dict[str, Any] = {
        "names": token_names(result.tokens),
        "surface": packed(surface) if exact else encode_array(surface, "f2"),
        "surfaceTokens": packed(tokens) if bunch > 1 else None,
        "bunch": bunch,
        "peaks": _peaks(surface),
        "columns": [
            str(first) if first == last else f"{first} to {last}"
            for first, last in zip(_first(result, surface), wide, strict=True)
        ],
        "row": int(result.surface_row),
        "channels": int(result.channels),
        "width": int(result.pooled),
        "top": packed(result.top),
        "median": packed(result.median),
        "table": _table(result),
    }
    return Picture.of(
        result,
        kind="massive",
        title="Massive activations",
        caption=(
            f"The size of every value of {result.site} after layer "
            f"{result.labels[result.surface_row]}, over tokens and channels: a few may tower "
            "thousands of times above the rest. Drag to turn, or use the arrow keys; point at a "
            "spike to read it. Below, the three largest magnitudes and the median of every layer."
        ),
        alt=_alt(result),
        data=data,
        notes=_notes(result),
        csv=_csv(result),
    )


def _first(result: Massive, surface: npt.NDArray[Any]) -> range:
    """The first channel of each column."""
    return range(0, surface.shape[1] * result.pooled, result.pooled)


def _peaks(surface: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """The places of the surface's largest finite values, the first of equals."""
    size = np.where(np.isfinite(surface), np.abs(surface), 0.0).ravel()
    best = np.argsort(-size, kind="stable")[:_NAMED]
    return [divmod(int(at), surface.shape[1]) for at in best if size[at] > 0]


def _table(result: Massive) -> dict[str, Any]:
    """The places of the largest values, layer by layer."""
    names = token_names(result.tokens)
    rows = []
    for row, label in enumerate(result.labels):
        found = [
            f"{number(float(value))} at {names[token] if token >= 0 else token} · {channel}"
            for value, (token, channel) in zip(result.values[row], result.places[row], strict=True)
        ]
        rows.append([label, *found, number(float(result.median[row]), 3)])
    columns = ["layer", "top 1", "top 2", "top 3", "median"]
    return table("Value at token · channel", columns, rows, words=[1, 2, 3])


def _csv(result: Massive) -> list[list[Any]]:
    rows: list[list[Any]] = [["layer", "place", "magnitude", "value", "token", "channel", "median"]]
    for row, label in enumerate(result.labels):
        for rank, (token, channel) in enumerate(result.places[row]):
            known = (result.top[row, rank], result.values[row, rank])
            numbers = [plain_number(float(value)) for value in known]
            median = plain_number(float(result.median[row]))
            rows.append([label, rank + 1, *numbers, int(token), int(channel), median])
    return rows


def _alt(result: Massive) -> str:
    row = result.surface_row
    token, channel = (int(one) for one in result.places[row, 0])
    if token < 0:
        return "No value is a finite number."
    found = int(np.count_nonzero(result.massive))
    return (
        f"The largest value of {result.site} is {result.values[row, 0]:.4g}, at layer "
        f"{result.labels[row]}, token {token} {plain(result.tokens[token])}, channel {channel}: "
        f"{result.top[row, 0] / max(float(result.median[row]), 1e-30):.3g} times the median "
        f"{result.median[row]:.3g}. Rows with a massive activation: {found} of "
        f"{len(result.labels)}."
    )


def _notes(result: Massive) -> tuple[str, ...]:
    said = []
    if "definition" in result.manifest:
        said.append(str(result.manifest["definition"]))
    if result.pooled > 1:
        said.append(
            f"A column of the surface is the value largest in size of {result.pooled} neighbouring "
            "channels."
        )
    bad = int(np.sum(result.nonfinite))
    if bad:
        said.append(f"{bad:,} values are not finite numbers; they are left out.")
    return tuple(said)
