"""Manifests: under what conditions a number or picture came to be."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

CONDITIONS = ("model", "weights_hash", "precision", "device", "plan", "edits", "seeds", "bos")
"""The conditions that every manifest names, None where they are not known."""


def manifest(view_info: Mapping[str, Any], tokens: Any = None, **extra: Any) -> dict[str, Any]:
    """A manifest as JSON values.

    view_info: what the view knows of itself: the `CONDITIONS` (`bos` tells whether a begin-of-text
    token precedes the tokens) and anything more. tokens: a batch with `tokens` and `lengths`, or
    what `tokens_hash` takes. extra: further fields, which win over the view's.
    """
    fields: dict[str, Any] = dict.fromkeys(CONDITIONS)
    fields.update(
        laminogram=_version("laminogram"),
        torch=str(torch.__version__),
        numpy=np.__version__,
        python=platform.python_version(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        tokens_hash=None,
    )
    if tokens is not None:
        ids = getattr(tokens, "tokens", tokens)
        fields["tokens_hash"] = tokens_hash(ids, getattr(tokens, "lengths", None))
    return {key: plain(value) for key, value in (fields | dict(view_info) | extra).items()}


def tokens_hash(tokens: Any, lengths: Sequence[int] | Any = None) -> str:
    """SHA-256, in hexadecimal, of rows of token ids and their lengths; pads do not enter.

    tokens: one row of ids, rows of ids, or an array or tensor (B, T) whose first `lengths[i]`
    columns in row i are real (all, without lengths).
    """
    rows = _rows(tokens)
    sizes = [len(row) for row in rows] if lengths is None else [int(size) for size in lengths]
    real = [row[:size] for row, size in zip(rows, sizes, strict=True)]
    digest = hashlib.sha256(b"laminogram tokens 1\n")
    digest.update(np.asarray([len(real), *map(len, real)], dtype="<i8").tobytes())
    for row in real:
        digest.update(row.astype("<i8").tobytes())
    return digest.hexdigest()


def _rows(tokens: Any) -> list[np.ndarray]:
    if isinstance(tokens, torch.Tensor):
        tokens = tokens.detach().cpu().numpy()
    if not isinstance(tokens, np.ndarray) and all(np.ndim(item) == 0 for item in tokens):
        tokens = [tokens]  # one row of ids
    if isinstance(tokens, np.ndarray) and tokens.ndim == 1:
        tokens = tokens[None]
    return [np.asarray(row, dtype=np.int64) for row in tokens]


def plain(value: Any) -> Any:
    """A value as JSON: what has no JSON form of its own is given as its text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type) and "__str__" not in vars(type(value)):
        return plain(asdict(value))
    if isinstance(value, Iterable) and "__str__" not in vars(type(value)):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    return str(value)


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a folder that is not installed
        return None
