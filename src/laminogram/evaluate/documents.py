"""Documents on this machine: the rows of a benchmark's files, the passages of a text.

A benchmark is a folder named after its task with one file for each split: `train`, `validation`,
`test`, as JSON lines (`.jsonl`) or Parquet (`.parquet`). A file `validation_1000.jsonl` is a part
of the split, and belongs to the task's name with that ending: `hellaswag-1000`, so that a figure
of a part is never taken for one of the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from laminogram.errors import ConfigError, TokenError

Document = dict[str, Any]
SUFFIXES = (".jsonl", ".parquet")


def find_folder(data: Path, names: Iterable[str]) -> Path:
    """The first folder of these names in `data`; ConfigError names those that exist."""
    tried = list(names)
    for name in tried:
        if (data / name).is_dir():
            return data / name
    there = sorted(one.name for one in data.iterdir() if one.is_dir()) if data.is_dir() else []
    raise ConfigError(
        f"{data} has no folder {' or '.join(tried)}; it has {', '.join(there) or 'no folder'}"
    )


def find_split(folder: Path, split: str, part: str = "") -> Path | None:
    """The file of a split or of a part of it, None where there is none."""
    name = f"{split}_{part}" if part else split
    paths = (folder / f"{name}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def files_of(folder: Path) -> str:
    """The names of a folder's data files, for messages."""
    names = sorted(one.name for one in folder.iterdir() if one.suffix in SUFFIXES)
    return ", ".join(names) or "no file"


def read_rows(path: Path) -> list[Document]:
    """The rows of a JSON-lines or Parquet file. ConfigError where it is not one."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows: list[Document] = pq.read_table(path).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"{path} cannot be read as Parquet: {error}") from error
        return rows
    rows = []
    # Not `splitlines`, which also breaks at characters that may stand inside a string of JSON.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}, is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number}, is no object but {type(row).__name__}")
        rows.append(row)
    return rows


def read_text(path: Path) -> str:
    """A UTF-8 file; ConfigError where it is none."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: byte {error.start} cannot be read") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def read_texts(path: Path) -> list[str]:
    """The documents of a text file: each row's `text` of JSON lines or Parquet; of anything else
    the whole file as one. TokenError where there is no text."""
    if path.suffix in SUFFIXES:
        rows = read_rows(path)
        missing = next((row for row in rows if not isinstance(row.get("text"), str)), None)
        if missing is not None:
            raise ConfigError(f"{path} has a row without a field text: {', '.join(missing)}")
        texts = [row["text"] for row in rows]
    else:
        texts = [read_text(path)]
    kept = [text for text in texts if text.strip()]
    if not kept:
        raise TokenError(f"{path} holds no text")
    return kept
