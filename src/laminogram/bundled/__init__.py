"""The small trained models: those that come with the package, and those of a clone's zoo.

A model's folder holds config.json, model.safetensors, tokenizer.json and card.json, whose `summary`
is one line about the model.
"""

from __future__ import annotations

import json
from pathlib import Path

_HERE = Path(__file__).parent
_ZOO = _HERE.parents[2] / "zoo"  # a package that was installed from a wheel has none beside it


def names() -> dict[str, str]:
    """Every model that comes with the package, with its summary, by name."""
    return _names(_HERE)


def zoo() -> dict[str, str]:
    """The same of the zoo's further models; empty where the package does not run from a clone."""
    return _names(_ZOO) if (_ZOO / "train.py").is_file() else {}


def path(name: str) -> Path:
    """The folder of a model of either kind; KeyError names those that exist."""
    for home, found in ((_HERE, names()), (_ZOO, zoo())):
        if name in found:
            return home / name
    known = ", ".join([*names(), *zoo()]) or "none"
    raise KeyError(f"no bundled model {name!r}; there are: {known}")


def _names(home: Path) -> dict[str, str]:
    return {
        folder.name: str(json.loads((folder / "card.json").read_text("utf-8")).get("summary", ""))
        for folder in sorted(home.iterdir())
        if (folder / "config.json").is_file() and (folder / "card.json").is_file()
    }
