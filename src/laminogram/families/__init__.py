"""The published architectures that load natively: one file each, found by being in this folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from laminogram.errors import FamilyError
from laminogram.families.base import Family, Layout, Shapes

__all__ = [
    "Family",
    "Layout",
    "Shapes",
    "detect",
    "find",
    "get",
    "known",
    "lines_of_code",
    "options",
]


@lru_cache(maxsize=1)
def known() -> dict[str, Family]:
    """Every family by name, in the order of their names."""
    families: dict[str, Family] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name == "base" or module.name.startswith("_"):
            continue
        family = importlib.import_module(f"{__name__}.{module.name}").FAMILY
        families[family.name] = family
    return dict(sorted(families.items()))


def get(name: str) -> Family:
    """The family of that name; FamilyError names those that exist."""
    if name not in known():
        raise FamilyError(f"no family is named {name!r}; there are {', '.join(known())}")
    return known()[name]


def options() -> set[str]:
    """What a caller may say about how tensors are laid out, over all families.

    Names with an underscore are not among them: those are entries that files hold themselves.
    """
    layouts = [layout for family in known().values() for layout in family.layouts]
    return {name for layout in layouts for name in layout.options if not name.startswith("_")}


def lines_of_code(family: Family) -> int:
    """How long the file of a family is, blank lines and comments left out."""
    name = family.configure.__module__
    text = Path(str(importlib.import_module(name).__file__)).read_text(encoding="utf-8")
    return sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith("#"))


def find(source: Mapping[str, Any]) -> Family:
    """The family of a configuration, by `model_type`, else by `architectures`.

    FamilyError names what the configuration says and which families exist.
    """
    model_type = source.get("model_type")
    architectures = source.get("architectures") or []
    if not isinstance(architectures, list):
        raise FamilyError(f"architectures is {architectures!r}; expected a list of class names")
    for family in known().values():
        if model_type in family.model_types:
            return family
    if model_type is None:
        for family in known().values():
            if any(name in family.architectures for name in architectures):
                return family
    said = f"model_type {model_type!r}" if model_type else "no model_type"
    if architectures:
        said += f", architectures {architectures}"
    raise FamilyError(f"the configuration has {said}: no family answers to it. {_listing()}")


def detect(shapes: Shapes) -> tuple[Family, dict[str, Any]]:
    """The family of a file without a configuration, and the configuration that its shapes tell.

    FamilyError names some of the tensors found and the families that can be told from tensors.
    """
    for family in known().values():
        source = family.recognise(shapes) if family.recognise is not None else None
        if source is not None:
            return family, source
    listed = ", ".join(sorted(shapes)[:6]) or "none at all"
    tellable = [family.name for family in known().values() if family.recognise is not None]
    raise FamilyError(
        f"no family can be told from the {len(shapes)} tensor names ({listed}, ...); without a "
        f"config.json that works for {', '.join(tellable)}. {_listing()}"
    )


def _listing() -> str:
    types = {name: ", ".join(family.model_types) for name, family in known().items()}
    return "Families: " + "; ".join(f"{name} (model_type {said})" for name, said in types.items())
