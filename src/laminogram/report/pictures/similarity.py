"""Similarity as a picture: every state with every other, with the groups outlined."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.report.picture import Picture, packed
from laminogram.studies.similarity import Similarity

RESULT = "Similarity"
_MEASURES = {
    "flattened": "flattened",
    "perToken": "per_token",
    "withoutFirst": "without_first",
    "cka": "cka",
}


def picture(result: Similarity) -> Picture:
    """Return the picture of a `studies.similarity.Similarity`."""
    matrices = {key: getattr(result, name) for key, name in _MEASURES.items()}
    data: dict[str, Any] = {
        "labels": list(result.labels),
        "matrices": {key: packed(one) for key, one in matrices.items() if one is not None},
        "groups": [
            {"name": name, "first": int(first), "last": int(last)}
            for name, first, last in result.groups
        ],
        "rule": result.groups_rule,
    }
    texts = "one text" if result.texts == 1 else f"{result.texts} texts"
    return Picture(
        kind="similarity",
        title="Similarity",
        caption=(
            "How alike the model’s states are, layer with layer: the input of every step and the "
            "output of the last. Squares on the diagonal are groups of layers whose states speak "
            "the same language. Point at a pair for all measures; click to keep it."
        ),
        alt=_alt(result),
        model=result.model,
        data=data,
        tables=result.tables(),
        notes=(
            f"Over {result.count} tokens of {texts}; CKA over {result.cka_tokens}. "
            + " ".join(f"{name}: {source}." for name, source in result.sources.items()),
        ),
        tokens=result.tokens,
        manifest=result.manifest,
    )


def _alt(result: Similarity) -> str:
    matrix, count = result.per_token, len(result.labels)
    said = f"A matrix of {count} by {count} states."
    if count > 1:
        near = np.diagonal(matrix, 1)
        least = int(np.nanargmin(near)) if np.isfinite(near).any() else 0
        said += (
            f" Per token, neighbouring states are {float(np.nanmean(near)):.3g} alike on average, "
            f"least between {result.labels[least]} and {result.labels[least + 1]} "
            f"({near[least]:.3g}); the first and the last {matrix[0, -1]:.3g}."
        )
    for name, first, last in result.groups:
        said += f" The {name} runs from {result.labels[first]} to {result.labels[last]}."
    return said
