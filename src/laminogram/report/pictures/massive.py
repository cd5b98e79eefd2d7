"""Massive activations as a picture: one layer's magnitudes as a surface, all layers as lines."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.report.payload import EXACT_VALUES, encode_array
from laminogram.report.picture import Picture, packed, plain
from laminogram.studies.massive import Massive

RESULT = "Massive"


def picture(result: Massive) -> Picture:
    """Return the picture of a `studies.massive.Massive`."""
    surface = np.asarray(result.surface)
    exact = surface.size <= EXACT_VALUES
    data: dict[str, Any] = {
        "labels": list(result.labels),
        "tokens": list(result.tokens),
        "surface": packed(surface) if exact else encode_array(surface, "f2"),
        "row": int(result.surface_row),
        "channels": int(result.channels),
        "width": int(result.pooled),
        "top": packed(result.top),
        "signedTop": packed(result.values),
        "places": packed(result.places),
        "median": packed(result.median),
    }
    return Picture(
        kind="massive",
        title="Massive activations",
        caption=(
            f"The size of every value of {result.site} after layer "
            f"{result.labels[result.surface_row]}, over tokens and channels: a few may tower "
            "thousands of times above the rest. Drag to turn, or use the arrow keys; point at a "
            "spike to read it. Below, the three largest magnitudes and the median of every layer."
        ),
        alt=_alt(result),
        model=result.model,
        data=data,
        tables=result.tables(),
        notes=_notes(result),
        tokens=result.tokens,
        manifest=result.manifest,
    )


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
