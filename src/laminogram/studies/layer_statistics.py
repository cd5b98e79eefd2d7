"""Statistics of what each layer says, over the real tokens of one text, in float64.

Axes: L layers, T tokens, C channels. Every function is pure. Values that are not finite (an fp16
overflow) are counted in `nonfinite` and left out of the other numbers, never hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SIGMAS = 6.0

FORMULAS: dict[str, str] = {
    "rms": "√ mean(x²)",
    "absmax": "max |x|",
    "median_abs": "median |x|, exact",
    "excess_kurtosis": "m₄ / m₂² − 3, with central moments over the layer's tokens and channels",
    "top_channel_share": "max_c e_c / Σ e_c, with e_c = Σ_t x²",
    "participation_ratio": "(Σ e_c)² / Σ e_c², in channels",
    "beyond_6_sigma": "count of |x − mean| > 6 σ, both of the layer",
}


@dataclass(frozen=True)
class Peak:
    """The largest value of one (layer, channel) over the tokens; `row` indexes the first axis."""

    row: int
    channel: int
    value: float
    token: int


def layer_statistics(x: npt.NDArray[np.floating]) -> dict[str, npt.NDArray[np.float64]]:
    """Return the statistics in `FORMULAS`, and `nonfinite` and `count`, as arrays of shape (L,).

    `x` has shape (L, T, C) and holds real tokens only: drop the pads first. A layer without a
    finite value gives NaN. One layer at a time is widened to float64, so the peak is small.
    """
    if x.ndim != 3:
        raise ValueError(f"expected an array of shape (layer, token, channel), got {x.shape}")
    rows = [_one_layer(np.asarray(layer, dtype=np.float64)) for layer in x]
    names = (*FORMULAS, "nonfinite", "count")
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in names}


def _one_layer(layer: npt.NDArray[np.float64]) -> dict[str, float]:
    finite = np.isfinite(layer)
    values = layer[finite]
    out = dict.fromkeys(FORMULAS, float("nan"))
    out |= {"nonfinite": float(layer.size - values.size), "count": float(values.size)}
    if not values.size:
        return out
    magnitude = np.abs(values)
    centred = values - values.mean()
    m2 = float(np.mean(centred**2))
    out["rms"] = float(np.sqrt(np.mean(values**2)))
    out["absmax"] = float(magnitude.max())
    out["median_abs"] = float(np.median(magnitude))
    out["beyond_6_sigma"] = float(np.count_nonzero(np.abs(centred) > SIGMAS * np.sqrt(m2)))
    if m2 > 0:
        # Divided first: x⁴ of a massive activation must not leave the range of float64's precision.
        out["excess_kurtosis"] = float(np.mean((centred**2 / m2) ** 2)) - 3.0
    energy = np.sum(np.where(finite, layer, 0.0) ** 2, axis=0)
    total = float(energy.sum())
    if total > 0:
        share = energy / total
        out["top_channel_share"] = float(share.max())
        out["participation_ratio"] = float(1.0 / np.sum(share**2))
    return out


def statistics_by_tokens(
    x: npt.NDArray[np.floating],
) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """Return `layer_statistics` of all tokens, of all but the first, and of the first alone.

    Massive activations sit on the first token: one of them can be all of a layer's variance, so
    the three are always told apart. With a single token, `rest` is absent.
    """
    sets = {"all": layer_statistics(x), "first": layer_statistics(x[:, :1])}
    if x.shape[1] > 1:
        sets["rest"] = layer_statistics(x[:, 1:])
    return sets


def largest_channels(x: npt.NDArray[np.floating], count: int = 12) -> list[Peak]:
    """Return the `count` (layer, channel) pairs of largest |value| over tokens, largest first.

    `x` has shape (L, T, C). A NaN ranks above everything. Ties go to the lower layer, then the
    lower channel; within a channel the first token that reaches the maximum is named.
    """
    layers, tokens, channels = x.shape
    if not tokens:
        return []
    where = np.zeros((layers, channels), dtype=np.int64)
    top = np.zeros((layers, channels))
    for row, layer in enumerate(x):
        magnitude = np.abs(layer.astype(np.float64))
        magnitude[np.isnan(magnitude)] = np.inf
        where[row] = magnitude.argmax(axis=0)
        top[row] = magnitude.max(axis=0)
    peak = top.reshape(-1)
    order = np.argsort(-peak, kind="stable")[: min(count, layers * channels)]
    found = []
    for flat in order:
        row, channel = divmod(int(flat), channels)
        token = int(where[row, channel])
        found.append(Peak(row, channel, float(x[row, token, channel]), token))
    return found
