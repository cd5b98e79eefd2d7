"""Moments of every channel: centred, in fp64, joined pairwise.

A batch is reduced in two passes (a mean first, then powers of the distance from it, corrected for
what rounding left of the mean; Chan, Golub and LeVeque call it corrected two-pass), and joined
to what was seen before with the pairwise formulas of Chan, Golub and LeVeque (1979) as Pébay
(SAND2008-6212) extends them to the fourth power. Raw power sums, which lose every digit where the
mean is large, are never formed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from laminogram.probe.statistics.base import State, Statistic
from laminogram.probe.statistics.rows import Rows


class Moments(Statistic):
    """Per channel: count, mean, second to fourth central moments, extrema.

    `result()` gives arrays (C,): `count` and `nonfinite` (int64); `mean`; `m2`, `m3`, `m4`, the
    means of (x - mean)**p over the tokens (m2 is the population variance, also called `variance`);
    `std`, `rms`; `skewness` = m3 / m2**1.5; `kurtosis` = m4 / m2**2 (3 for a Gaussian) and
    `excess_kurtosis`, 3 less; `min`, `max`, `absmax`. A channel without values is NaN. Skewness and
    kurtosis are NaN where the spread is below 1e-13 of the mean, that is, rounding.

    Values beyond 1e77, which only float64 sites can hold, overflow in the fourth power.
    """

    name = "moments"

    def reduce(self, rows: Rows) -> State:
        """Corrected two passes over the rows: a state of (C,) tensors."""
        counted, nonfinite = rows.channel_counts
        if rows.compiled:
            return {"count": counted, "nonfinite": nonfinite} | rows.summary.moments
        low, high = rows.channel_range
        number = counted.clamp(min=1).to(torch.float64)
        center, sums = _power_sums(rows, number)
        rest = sums[0] / number  # what the center missed of the mean
        gap = sums[0] * rest  # the count times the square of that
        s2, s3, s4 = sums[1], sums[2], sums[3]
        return {
            "count": counted,
            "nonfinite": nonfinite,
            "mean": center,
            "rest": rest,
            "s2": (s2 - gap).clamp(min=0),
            "s3": s3 - rest * (3 * s2 - 2 * gap),
            "s4": (s4 - rest * (4 * s3 - rest * (6 * s2 - 3 * gap))).clamp(min=0),
            "min": low.to(torch.float64),
            "max": high.to(torch.float64),
        }

    def combine(self, a: State, b: State) -> State:
        """Join the sums s_p of (x - mean)**p about two means into those about the common mean."""
        na, nb = a["count"].to(torch.float64), b["count"].to(torch.float64)
        n = (na + nb).clamp(min=1)
        # Means are kept in two parts: where they are large and close, the difference of rounded
        # ones would have few right digits.
        gap = (b["mean"] - a["mean"]) + (b["rest"] - a["rest"])
        # Shares instead of counts, so that no power of a count grows out of range.
        pa, pb = na / n, nb / n
        step_a, step_b = -pb * gap, pa * gap  # from each mean's values to the common mean
        s2a, s2b, s3a, s3b = a["s2"], b["s2"], a["s3"], b["s3"]
        more = na >= nb
        mean, rest = _two_sum(
            torch.where(more, a["mean"], b["mean"]),
            torch.where(more, a["rest"] - step_a, b["rest"] - step_b),
        )
        return {
            "count": a["count"] + b["count"],
            "nonfinite": a["nonfinite"] + b["nonfinite"],
            "mean": mean,
            "rest": rest,
            "s2": s2a + s2b + na * pb * gap**2,
            "s3": s3a + s3b + na * pb * (pa - pb) * gap**3 + 3 * (step_a * s2a + step_b * s2b),
            "s4": a["s4"]
            + b["s4"]
            + na * pb * (pa**2 - pa * pb + pb**2) * gap**4
            + 6 * (step_a**2 * s2a + step_b**2 * s2b)
            + 4 * (step_a * s3a + step_b * s3b),
            "min": torch.minimum(a["min"], b["min"]),
            "max": torch.maximum(a["max"], b["max"]),
        }

    def describe(self, state: State) -> dict[str, np.ndarray]:
        """The arrays of the class's table."""
        return _table({key: value.numpy() for key, value in state.items()})

    def pooled(self) -> dict[str, np.ndarray]:
        """The same table for all channels taken together, as arrays of no axes.

        These are the moments of the whole site over tokens and channels; with `result()` they split
        its variance into that within channels and that between their means.
        """
        return {key: value[0] for key, value in _table(_pool(self.state_dict())).items()}


def _power_sums(rows: Rows, number: Tensor) -> tuple[Tensor, Tensor]:
    """A center (C,) near the means, and the sums (4, C) of the first four powers of the distance
    from it."""
    values, center = centred(rows, number)
    sums = torch.zeros(4, len(center), dtype=torch.float64, device=center.device)
    ones = torch.ones(len(values), dtype=torch.float64, device=center.device)
    for part, distance, square in rows.chunks():
        # Columns are added by a product with ones: faster than sum(0), and as exact.
        distance.copy_(values[part]).sub_(center)
        sums[0].addmv_(distance.T, ones[part])
        torch.mul(distance, distance, out=square)
        sums[1].addmv_(square.T, ones[part])
        sums[2].addmv_(distance.mul_(square).T, ones[part])
        sums[3].addmv_(square.mul_(square).T, ones[part])
    return center, sums


def centred(rows: Rows, number: Tensor) -> tuple[Tensor, Tensor]:
    """Values (N, C) whose excluded entries lie on the center, and the center (C,) in fp64.

    The center is the channel's mean in the precision of the values: close enough to leave no
    cancellation, and without distance, to the last bit, from what was filled in.
    """
    values, dtype = rows.values, rows.values.dtype
    share = torch.full((len(values),), 1 / len(values), dtype=dtype, device=values.device)
    center = share @ rows.clean
    if rows.valid is None:
        return rows.clean, center.to(torch.float64)
    center = (center.to(torch.float64) * len(values) / number).to(dtype)
    return torch.where(rows.valid, values, center), center.to(torch.float64)


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A sum and its rounding error, exactly (Knuth)."""
    total = a + b
    b_in_it = total - a
    return total, (a - (total - b_in_it)) + (b - b_in_it)


def _pool(state: State) -> dict[str, np.ndarray]:
    """Sums about the common mean of all channels, (1,) each."""
    count = state["count"].to(torch.float64)
    s2, s3, s4 = state["s2"], state["s3"], state["s4"]
    near = state["mean"][count.argmax()]
    gap = (state["mean"] - near) + state["rest"]
    rest = (count * gap).sum() / count.sum().clamp(min=1)
    gap = gap - rest
    pooled = {
        "count": state["count"].sum(),
        "nonfinite": state["nonfinite"].sum(),
        "mean": near,
        "rest": rest,
        "s2": (s2 + count * gap**2).sum(),
        "s3": (s3 + 3 * gap * s2 + count * gap**3).sum(),
        "s4": (s4 + 4 * gap * s3 + 6 * gap**2 * s2 + count * gap**4).sum(),
        "min": state["min"].amin(),
        "max": state["max"].amax(),
    }
    return {key: value.reshape(1).numpy() for key, value in pooled.items()}


def _table(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = state["count"]
    some = count > 0
    per = np.where(some, count, 1).astype(np.float64)

    def known(values: np.ndarray, where: np.ndarray = some) -> np.ndarray:
        return np.where(where, values, np.nan)

    mean, m2 = known(state["mean"] + state["rest"]), known(state["s2"] / per)
    m3, m4 = known(state["s3"] / per), known(state["s4"] / per)
    spread = m2 > (1e-13 * np.abs(mean)) ** 2
    safe = np.where(spread, m2, 1.0)
    kurtosis = known(m4 / safe**2, spread)
    low, high = known(state["min"]), known(state["max"])
    return {
        "count": count,
        "nonfinite": state["nonfinite"],
        "mean": mean,
        "m2": m2,
        "m3": m3,
        "m4": m4,
        "variance": m2.copy(),
        "std": np.sqrt(m2),
        "rms": np.sqrt(m2 + mean**2),
        "skewness": known(m3 / safe**1.5, spread),
        "kurtosis": kurtosis,
        "excess_kurtosis": kurtosis - 3.0,
        "min": low,
        "max": high,
        "absmax": np.maximum(np.abs(low), np.abs(high)),
    }
