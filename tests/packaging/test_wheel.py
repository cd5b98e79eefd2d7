"""The built wheel, in an environment that holds it and its declared requirements and nothing else.

Installing torch anew would fetch gigabytes, so the requirements come from the environment that runs
the tests: a fresh venv receives a link to each distribution that the wheel's metadata asks for,
directly or through another. What is not asked for (transformers, rwkv, pytest) is not there, so an
undeclared import fails as it would on a user's machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]

LOAD_ALL = """
import sys
import laminogram
from laminogram.bundled import names
assert names(), "no bundled models"
for name in names():
    view = laminogram.load(name)
    logits = view.logits("The sea was")
    assert logits.ndim == 3 and logits.isfinite().all(), name
for absent in ("transformers", "rwkv", "pytest"):
    assert absent not in sys.modules
print(laminogram.__file__)
"""


def call(*command: str | Path, cwd: Path) -> str:
    """Run a command away from the clone, without what this process's environment would add."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def requirements(name: str, found: set[str]) -> None:
    """Collect in `found` the names of all distributions that `name` needs here, itself included."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    key = canonicalize_name(name)
    if key in found:
        return
    try:
        needs = distribution(name).requires or []
    except PackageNotFoundError:
        return  # a CPU build of torch lives without some that it names; a real lack fails below
    found.add(key)
    for requirement in map(Requirement, needs):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            requirements(requirement.name, found)


def link_distribution(name: str, site: Path) -> None:
    """Make one distribution of this environment importable from another site-packages folder."""
    held = distribution(name)
    tops = {
        path.parts[0] for path in held.files or [] if path.parts[0] not in ("..", "__pycache__")
    }
    for top in tops:
        target = site / top
        if not target.exists():
            target.symlink_to(Path(str(held.locate_file(top))).resolve())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that no build output appears in the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    call(*build, source, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel and its requirements."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=True, symlinks=True)
    python = home / "bin" / "python"
    call(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=home)
    site = Path(
        call(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=home).strip()
    )
    names: set[str] = set()
    requirements("laminogram", names)
    for name in names - {"laminogram"}:
        link_distribution(name, site)
    return home / "bin"


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("laminogram/")}
    package = ROOT / "src"
    expected = {
        path.relative_to(package).as_posix()
        for path in (package / "laminogram").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == expected


def test_the_command_lists_the_bundled_models(installed: Path, tmp_path: Path) -> None:
    listing = call(installed / "laminogram", "ls", "models", cwd=tmp_path)
    assert "tiny-llama" in listing
    assert "tiny-rwkv4" in listing


def test_every_bundled_model_loads_without_the_clone(installed: Path, tmp_path: Path) -> None:
    place = Path(call(installed / "python", "-c", LOAD_ALL, cwd=tmp_path).strip())
    assert place.is_relative_to(installed.parent)


def test_the_study_runs_without_the_clone(installed: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    call(installed / "laminogram", "study", "--prompt", "The sea was", "--out", out, cwd=tmp_path)
    assert (out / "index.html").stat().st_size > 0
    assert (out / "manifest.json").exists()
