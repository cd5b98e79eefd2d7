"""Experiments: conditions and measures, giving plain data that the report floor draws.

from laminogram import studies
studies.lens.lens(stack, "The river ran down to the sea.")
"""

from __future__ import annotations

import importlib
from typing import Any

_STUDIES = (
    "attention",
    "compare",
    "doctor",
    "lens",
    "massive",
    "model_map",
    "next_token",
    "operation_targets",
    "operations",
    "painters",
    "precision",
    "similarity",
    "study",
)


def __getattr__(name: str) -> Any:
    if name in _STUDIES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"laminogram.studies has no {name!r}; it has {', '.join(_STUDIES)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_STUDIES])
