"""The colour tables that the page, the stills and the animations share.

`viewer/colours.json` is the one source: both the page and this module read it. The tables in it
were made by `diverging` and `sequential` below, which walk through OKLab so that equal steps in
value are equal steps in what the eye sees; a test holds the file to them.
OKLab: B. Ottosson, "A perceptual color space for image processing" (2020).
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIZE = 256
NOT_A_NUMBER = (208, 79, 154)
"""The violet of values that are no numbers, as in viewer/colour.js."""
_STYLE = Path(__file__).parent / "viewer" / "style.css"
_FILE = Path(__file__).parent / "viewer" / "colours.json"
Array = npt.NDArray[np.float64]

_LMS_FROM_LAB = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_RGB_FROM_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)

# (lightness, chroma, hue in degrees) from the neutral middle outwards. Blue and orange stay apart
# for every common colour blindness; lightness alone tells the magnitude.
_ARMS: dict[str, tuple[list[tuple[float, float, float]], list[tuple[float, float, float]]]] = {
    "diverging-light": (
        [(0.975, 0.004, 250), (0.80, 0.085, 240), (0.57, 0.135, 250), (0.30, 0.115, 265)],
        [(0.975, 0.004, 250), (0.83, 0.105, 68), (0.62, 0.150, 47), (0.36, 0.115, 35)],
    ),
    "diverging-dark": (
        [(0.205, 0.010, 250), (0.45, 0.105, 255), (0.70, 0.125, 238), (0.93, 0.060, 215)],
        [(0.205, 0.010, 250), (0.45, 0.110, 42), (0.71, 0.150, 58), (0.93, 0.080, 85)],
    ),
}
_SEQUENTIAL: dict[str, list[tuple[float, float, float]]] = {
    "sequential-light": [
        (0.975, 0.006, 95),
        (0.80, 0.085, 180),
        (0.57, 0.105, 215),
        (0.27, 0.09, 275),
    ],
    "sequential-dark": [
        (0.205, 0.010, 250),
        (0.42, 0.085, 250),
        (0.68, 0.105, 200),
        (0.95, 0.07, 105),
    ],
}


def _lab(stops: list[tuple[float, float, float]]) -> Array:
    light, chroma, hue = np.array(stops, dtype=np.float64).T
    angle = np.deg2rad(hue)
    return np.stack([light, chroma * np.cos(angle), chroma * np.sin(angle)], axis=1)


def srgb_from_oklab(lab: Array) -> npt.NDArray[np.uint8]:
    """Return 8-bit sRGB of OKLab colours of shape (n, 3), clipped to the gamut."""
    linear = (lab @ _LMS_FROM_LAB.T) ** 3 @ _RGB_FROM_LMS.T
    linear = np.clip(linear, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


def oklab_from_srgb(rgb: npt.NDArray[np.uint8]) -> Array:
    """Return OKLab of 8-bit sRGB colours of shape (n, 3)."""
    encoded = rgb.astype(np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    lms = np.cbrt(linear @ np.linalg.inv(_RGB_FROM_LMS).T)
    return np.asarray(lms @ np.linalg.inv(_LMS_FROM_LAB).T)


def even_path(stops: list[tuple[float, float, float]], size: int) -> Array:
    """Return `size` OKLab colours along a smooth curve through `stops`, equally far apart."""
    points = _lab(stops)
    # A cubic through the stops in each coordinate: few stops, so it cannot wiggle.
    along = np.linspace(0.0, 1.0, len(points))
    fine = np.linspace(0.0, 1.0, 4096)
    curve = np.stack([np.polyval(np.polyfit(along, column, 3), fine) for column in points.T], 1)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    wanted = np.linspace(0.0, length[-1], size)
    return np.stack([np.interp(wanted, length, column) for column in curve.T], 1)


def make_tables() -> dict[str, npt.NDArray[np.uint8]]:
    """Compute every table, (256, 3) uint8: what `viewer/colours.json` holds."""
    tables = {name: srgb_from_oklab(even_path(stops, SIZE)) for name, stops in _SEQUENTIAL.items()}
    for name, (below, above) in _ARMS.items():
        arms = [even_path(below, SIZE // 2)[::-1], even_path(above, SIZE // 2)]
        tables[name] = srgb_from_oklab(np.concatenate(arms))
    return tables


@cache
def palette() -> dict[str, Any]:
    """Return the content of `viewer/colours.json`: `tables` (hex text) and `models` (by theme)."""
    content: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return content


def table(name: str) -> npt.NDArray[np.uint8]:
    """Return a colour table as (256, 3) uint8; raises `KeyError` naming the tables there are."""
    tables = palette()["tables"]
    if name not in tables:
        raise KeyError(f"no colour table {name!r}; there are {', '.join(sorted(tables))}")
    return np.frombuffer(bytes.fromhex(tables[name]), dtype=np.uint8).reshape(SIZE, 3)


def heat_table(theme: str) -> npt.NDArray[np.uint8]:
    """Return the heat map's colours of a theme, (257, 3): the table, then that of no number."""
    return np.concatenate([table(f"diverging-{theme}"), np.array([NOT_A_NUMBER], np.uint8)])


def table_index(place: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.intp]:
    """Return the entry of `heat_table` for places between -1 and 1, 256 for NaN. As heatmap.js."""
    known = np.floor((np.nan_to_num(place) + 1) * 127.5 + 0.5).astype(np.intp)
    return np.where(np.isnan(place), SIZE, known)


@cache
def inks(theme: str) -> dict[str, str]:
    """Return the colours of lines and words of a theme, "#rrggbb" by name, from the page's style.

    `theme` is `light` or `dark`; the dark theme keeps what it does not name anew.
    """
    style = _STYLE.read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    found = [dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", block)) for block in blocks[:2]]
    return found[0] if theme == "light" else found[0] | found[1]


def write_palette(path: Path = _FILE) -> None:
    """Compute the tables of the file anew and write it; needed when what makes them is changed."""
    tables = {name: rgb.tobytes().hex() for name, rgb in sorted(make_tables().items())}
    path.write_text(json.dumps({**palette(), "tables": tables}, indent=1) + "\n", encoding="utf-8")
