"""What loading a model may import: a module that takes seconds is for those who need it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import laminogram

_SOURCE = Path(laminogram.__file__).parent
_HEAVY = ("torch.distributed", "torch.fx", "sympy", "transformers", "datasets")


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules that a file imports whenever it is imported itself."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_no_module_on_the_way_of_a_load_imports_what_takes_seconds() -> None:
    files = [
        file
        for room in ("checkpoint", "families", "stack", "tokenizers")
        for file in (_SOURCE / room).rglob("*.py")
    ]
    found = {
        (file.name, name)
        for file in files
        for name in imported(ast.parse(file.read_text(encoding="utf-8")))
        if name.startswith(_HEAVY)
    }
    assert len(files) > 50 and not found
