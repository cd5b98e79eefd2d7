"""The small trained models that come with the package, one folder each.

A folder holds config.json, model.safetensors, tokenizer.json and card.json, whose `summary` is one
line about the model.
"""

from __future__ import annotations

import json
from pathlib import Path

_HERE = Path(__file__).parent


def names() -> dict[str, str]:
    """Every bundled model with its summary, by name."""
    return {
        folder.name: str(json.loads((folder / "card.json").read_text("utf-8")).get("summary", ""))
        for folder in sorted(_HERE.iterdir())
        if (folder / "config.json").is_file() and (folder / "card.json").is_file()
    }


def path(name: str) -> Path:
    """The folder of a bundled model; KeyError names those that exist."""
    if name not in names():
        raise KeyError(f"no bundled model {name!r}; there are: {', '.join(names()) or 'none'}")
    return _HERE / name
