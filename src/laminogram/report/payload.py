"""Arrays inside a page: raw little-endian bytes, deflated, in base64, decoded by the browser."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

EXACT_VALUES = 1_500_000
"""Up to so many values in a page they are kept as float32; beyond, as float16 (11 bits)."""

_TYPES: dict[str, np.dtype[Any]] = {
    "f4": np.dtype("<f4"),
    "f2": np.dtype("<f2"),
    "u2": np.dtype("<u2"),
}


def encode_array(x: npt.NDArray[Any], kind: str) -> dict[str, Any]:
    """Return `x` as JSON data: `kind`, `shape`, `scale` and `data`.

    `kind` is "f4", "f2" or "u2". float16 is divided by a power of two first where it would
    overflow; `scale` holds it. float16 keeps 11 significant bits, the others are exact.
    """
    scale = 1.0
    array = np.asarray(x)
    if kind == "f2":
        finite = array[np.isfinite(array)]
        top = float(np.abs(finite).max()) if finite.size else 0.0
        while top / scale > 60_000:
            scale *= 2.0
        array = array / np.float32(scale)
    raw = np.ascontiguousarray(array, dtype=_TYPES[kind]).tobytes()
    data = base64.b64encode(zlib.compress(raw, 6)).decode("ascii")
    return {"kind": kind, "shape": list(array.shape), "scale": scale, "data": data}


def decode_array(payload: dict[str, Any]) -> npt.NDArray[Any]:
    """Return the array that `encode_array` packed: what the page sees, for tests and tools."""
    raw = zlib.decompress(base64.b64decode(payload["data"]))
    array = np.frombuffer(raw, dtype=_TYPES[payload["kind"]]).reshape(payload["shape"])
    if payload["kind"] == "f2":
        return array.astype(np.float32) * np.float32(payload["scale"])
    return array
