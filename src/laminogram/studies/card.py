"""A model's card as plain data: what the report shows at the head of each model's column."""

from __future__ import annotations

from typing import Any

FIELDS = (
    "name",
    "family",
    "layers",
    "hidden_size",
    "vocab_size",
    "parameters",
    "parameter_total",
    "bytes_by_precision",
    "cache_bytes_per_token",
    "state_bytes",
    "context",
)


def card_data(card: Any) -> dict[str, Any]:
    """Return a `laminogram.probe.card.Card`, or anything shaped like one, as a dict."""
    data = {field: getattr(card, field) for field in FIELDS}
    data["parameters"] = {str(part): int(n) for part, n in data["parameters"].items()}
    data["bytes_by_precision"] = {
        str(precision): int(n) for precision, n in data["bytes_by_precision"].items()
    }
    return data
