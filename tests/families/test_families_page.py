"""The page that shows how a family is added shows a file that exists, as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median

from laminogram import families

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
SOURCE = Path(families.__file__).parent


def test_the_example_is_the_file() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = re.search(r"```python\n(.*?)\n```", page, re.DOTALL)
    assert shown is not None
    assert shown.group(1) == (SOURCE / "starcoder2.py").read_text(encoding="utf-8").rstrip()


def test_the_page_names_every_family() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in families.known() if name not in page] == []


def test_families_are_small() -> None:
    lines = [families.lines_of_code(family) for family in families.known().values()]
    assert median(lines) < 100


def test_no_family_is_named_elsewhere() -> None:
    """By its model types; mechanisms that are named for where they come from are none."""
    types = {name for family in families.known().values() for name in family.model_types}
    rooms = SOURCE.parent
    found = [
        f"{file.relative_to(rooms)}: {name}"
        for file in rooms.rglob("*.py")
        if SOURCE not in file.parents
        for name in types
        if re.search(rf"""["']{re.escape(name)}["']""", file.read_text(encoding="utf-8"))
    ]
    assert found == []
