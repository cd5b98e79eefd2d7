"""Similarity as a picture: every state with every other, with the groups outlined."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.report.page_data import plain_number
from laminogram.report.picture import Picture, packed
from laminogram.studies.similarity import Similarity

RESULT = "Similarity"
_MEASURES = (
    (
        "flattened",
        "flattened",
        "cosine of the whole text’s states as one vector, so that large tokens weigh most",
    ),
    ("per_token", "per token", "mean over tokens of the cosine of each token’s states"),
    (
        "without_first",
        "without token 0",
        "the same without the first token, whose state can be thousands of times the others",
    ),
    (
        "cka",
        "CKA",
        "linear centred kernel alignment: whether two states hold the same relations between "
        "tokens",
    ),
)
"""(field of the result, name on the page, what its colours mean)."""


def picture(result: Similarity) -> Picture:
    """Return the picture of a `studies.similarity.Similarity`."""
    data: dict[str, Any] = {
        "measures": [
            {"key": key, "name": name, "says": says, "matrix": packed(getattr(result, key))}
            for key, name, says in _MEASURES
            if getattr(result, key) is not None
        ],
        "groups": [
            {
                "name": name,
                "first": int(first),
                "last": int(last),
                "says": _span(result, first, last),
            }
            for name, first, last in result.groups
        ],
        "rule": result.groups_rule,
    }
    texts = "one text" if result.texts == 1 else f"{result.texts} texts"
    return Picture.of(
        result,
        kind="similarity",
        title="Similarity",
        caption=(
            "How alike the model’s states are, layer with layer: the input of every step and the "
            "output of the last. Squares on the diagonal are groups of layers whose states speak "
            "the same language. Point at a pair for all measures; click to keep it."
        ),
        alt=_alt(result),
        data=data,
        notes=(
            f"Over {result.count} tokens of {texts}; CKA over {result.cka_tokens}. "
            + " ".join(f"{name}: {source}." for name, source in result.sources.items()),
        ),
        csv=_csv(result),
    )


def _csv(result: Similarity) -> list[list[Any]]:
    known = [key for key, _, _ in _MEASURES if getattr(result, key) is not None]
    rows: list[list[Any]] = [["state", "other", *known]]
    for i, label in enumerate(result.labels):
        for j, other in enumerate(result.labels):
            values = (plain_number(float(getattr(result, key)[i, j])) for key in known)
            rows.append([label, other, *values])
    return rows


def _span(result: Similarity, first: int, last: int) -> str:
    labels = result.labels
    return labels[first] if first == last else f"{labels[first]} to {labels[last]}"


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
        said += f" The {name}: {_span(result, first, last)}."
    return said
