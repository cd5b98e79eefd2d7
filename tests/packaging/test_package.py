"""The package as setuptools sees it: every module imports, every data file is declared."""

from __future__ import annotations

import importlib
import pkgutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

import laminogram

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "laminogram"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(PACKAGE)], "laminogram.")
    if not module.name.endswith("__main__")
)


def source_files() -> list[Path]:
    """Every file of the package apart from Python's caches, relative to the package."""
    files = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*") if path.is_file())
    return [path for path in files if "__pycache__" not in path.parts]


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported(name: str) -> None:
    if name.endswith("_triton_kernels"):
        pytest.importorskip("triton")  # the kernels themselves; what calls them imports without
    importlib.import_module(name)


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in source_files() if path.suffix == ".py"}
    missing = [str(folder) for folder in folders if not (PACKAGE / folder / "__init__.py").exists()]
    assert missing == []


def test_every_data_file_is_declared() -> None:
    patterns: list[str] = PROJECT["tool"]["setuptools"]["package-data"]["laminogram"]
    declared = {path.relative_to(PACKAGE) for pattern in patterns for path in PACKAGE.glob(pattern)}
    data = {path for path in source_files() if path.suffix != ".py"}
    assert sorted(data - declared) == []
    assert Path("py.typed") in declared


def test_torch_is_no_build_requirement() -> None:
    assert not [name for name in PROJECT["build-system"]["requires"] if "torch" in name]


def test_every_requirement_is_pinned_within_its_range() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = PROJECT["project"]["optional-dependencies"].values()
    named = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]
    for requirement in map(Requirement, named):
        if requirement.name != "laminogram":
            pin = pins[canonicalize_name(requirement.name)]
            assert pin in requirement.specifier, f"{requirement} is pinned to {pin}"
    assert not [pin for pin in pins.values() if "+" in pin], "a local version fits one machine only"


def test_the_version_is_the_declared_one() -> None:
    from importlib.metadata import version

    assert version("laminogram") == PROJECT["project"]["version"]
    assert Path(laminogram.__path__[0]).resolve() == PACKAGE
