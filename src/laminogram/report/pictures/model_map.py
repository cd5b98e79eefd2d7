"""The model map as a picture: layers and parts with their sizes, any statistic as colour."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from laminogram.report.page_data import plain_number
from laminogram.report.picture import Picture
from laminogram.studies.model_map import ModelMap

RESULT = "ModelMap"


def picture(result: ModelMap) -> Picture:
    """Return the picture of a `studies.model_map.ModelMap`."""
    data: dict[str, Any] = {
        "labels": list(result.labels),
        "parts": [asdict(part) for part in result.parts],
        "steps": [list(steps) for steps in result.steps],
        "statistics": {
            name: [plain_number(float(v)) for v in values]
            for name, values in result.statistics.items()
        },
        "meanings": dict(result.meanings),
    }
    return Picture(
        kind="model_map",
        title="Model map",
        caption=(
            "The stack from the embedding to the head, each layer with its parts; a box is as "
            "wide as it has parameters. Choose a statistic to colour the layers by it; click a "
            "layer to select it in every picture."
        ),
        alt=_alt(result),
        model=result.model,
        data=data,
        tables=result.tables(),
        tokens=result.tokens,
        manifest=result.manifest,
    )


def _alt(result: ModelMap) -> str:
    total = sum(part.parameters for part in result.parts)
    held = sum(part.bytes for part in result.parts)
    kinds: dict[str, int] = {}
    for part in result.parts:
        kinds[part.kind] = kinds.get(part.kind, 0) + part.parameters
    shares = ", ".join(f"{kind} {n:,}" for kind, n in kinds.items())
    return (
        f"{result.model}: {len(result.labels)} layers, {total:,} parameters in {held:,} bytes "
        f"({shares}). Statistics that can be shown: {', '.join(result.statistics) or 'none'}."
    )
