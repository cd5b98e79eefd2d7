"""The model map as a picture: layers and parts with their sizes, any statistic as colour."""

from __future__ import annotations

from typing import Any

from laminogram.report.figures import count, memory, number, short
from laminogram.report.page_data import plain_number
from laminogram.report.picture import Picture
from laminogram.studies.model_map import ModelMap

RESULT = "ModelMap"
KINDS = ("norms", "attn", "ffn", "embedding", "head")
"""The order of a row's parts."""


def picture(result: ModelMap) -> Picture:
    """Return the picture of a `studies.model_map.ModelMap`."""
    statistics = {
        name: [plain_number(float(v)) for v in values] for name, values in result.statistics.items()
    }
    data: dict[str, Any] = {
        "rows": _rows(result),
        "statistics": statistics,
        "meanings": {name: result.meanings.get(name, name) for name in statistics},
        "concerns": {name: _concerned(name) for name in statistics},
    }
    return Picture.of(
        result,
        kind="model_map",
        title="Model map",
        caption=(
            "The stack from the embedding to the head, each layer with its parts; a box is as "
            "wide as it has parameters. Choose a statistic to colour the layers by it; click a "
            "layer to select it in every picture."
        ),
        alt=_alt(result),
        data=data,
        csv=_csv(result, statistics),
    )


def _rows(result: ModelMap) -> list[dict[str, Any]]:
    """What stands before the layers, the layers, what stands after them: each with its parts."""
    total = sum(part.parameters for part in result.parts)
    rows: list[dict[str, Any]] = []
    for part in result.parts:
        if part.layer is None or not rows or rows[-1]["layer"] != part.layer:
            label = result.labels[part.layer] if part.layer is not None else part.label
            left_out = part.layer is not None and not result.steps[part.layer]
            note = ", which the plan leaves out" if left_out else ""
            rows.append({"layer": part.layer, "label": label, "note": note, "parts": []})
        share = 100 * part.parameters / total if total else 0.0
        drawn = {
            "kind": part.kind,
            "name": part.name,
            "parameters": part.parameters,
            "bytes": part.bytes,
            "size": count(part.parameters),
            "facts": [("memory", memory(part.bytes)), ("share of all", f"{number(share, 3)} %")],
            "shape": part.shape,
        }
        rows[-1]["parts"].append(drawn)
    for row in rows:
        row["parts"].sort(key=lambda part: KINDS.index(part["kind"]))
        row["parameters"] = sum(part["parameters"] for part in row["parts"])
        row["size"] = short(row["parameters"])
        row["memory"] = memory(sum(part["bytes"] for part in row["parts"]))
    return rows


def _concerned(statistic: str) -> list[str]:
    """The parts of a layer that a statistic colours: its own mixer, or both."""
    return [kind for kind in ("attn", "ffn") if kind in statistic] or ["attn", "ffn"]


def _csv(result: ModelMap, statistics: dict[str, list[Any]]) -> list[list[Any]]:
    head = ["label", "layer", "kind", "name", "parameters", "bytes", "shape"]
    rows: list[list[Any]] = [[*head, *statistics]]
    for part in result.parts:
        layer = part.layer
        found = [None if layer is None else values[layer] for values in statistics.values()]
        rows.append([getattr(part, name) for name in head] + found)
    return rows


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
