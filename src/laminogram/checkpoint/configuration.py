"""What a model is, from its configuration alone: no weight is read or downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laminogram import bundled, families
from laminogram.checkpoint.blockwise import unquantised
from laminogram.checkpoint.load import describe, read_config
from laminogram.checkpoint.resolve import fetch_configuration
from laminogram.stack.config import StackConfig


def configuration(source: str | Path | Mapping[str, Any]) -> tuple[StackConfig, str]:
    """The stack that a configuration describes, and what to call it.

    source: the contents of a config.json, such a file, a model's directory, a weight file (whose
    names and shapes are read), a bundled name, or a hub id, of which only config.json is
    downloaded. CheckpointError, FamilyError or ConfigError say what is wrong.
    """
    if isinstance(source, Mapping):
        source = unquantised(source)
        return families.find(source).config(source), str(source.get("_name_or_path") or "model")
    text = str(source)
    if text in (*bundled.names(), *bundled.zoo()):
        source = bundled.path(text)
    path = Path(source).expanduser()
    if not path.exists():
        return _from_file(fetch_configuration(text)), text
    if path.is_file() and path.suffix == ".json":
        return _from_file(path), path.resolve().parent.name
    if path.is_dir() and (path / "config.json").is_file():
        return _from_file(path / "config.json"), path.resolve().name
    return describe(path).config, path.stem


def _from_file(file: Path) -> StackConfig:
    source = unquantised(read_config(file))
    return families.find(source).config(source)
