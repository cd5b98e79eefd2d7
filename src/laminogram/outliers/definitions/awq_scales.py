"""The activation scales of AWQ."""

from __future__ import annotations

import numpy as np

from laminogram.errors import ConfigError
from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.outliers.definitions.channel_max_ratio import ratio_to_median
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.scales import Scales

_SMALLEST = 1e-4


class AwqScales(OfPlaces):
    """Per input channel of every product with a weight: mean |x| over all tokens.

    The scales themselves are `mean_abs` of the statistic `scales`; `weight_scales` turns them into
    the candidates of the published search.
    """

    name = "awq_scales"
    source = "Lin et al. 2024, mit-han-lab/llm-awq auto_scale.py"
    trap = (
        "The mean, not the maximum: a massive activation of one token hardly shows. The published "
        "calibration leaves out texts of more than 512 tokens."
    )
    sites = ("attn_in", "z", "ffn_in", "ffn_act")

    def statistics(self) -> tuple[Statistic, ...]:
        """Mean sizes of channels."""
        return (Scales(),)

    def quantities(self, place: Place) -> Quantities:
        """`ratio`: the largest scale as a multiple of the median one; `largest`."""
        mean = place["scales"]["mean_abs"]
        return {"ratio": ratio_to_median(mean).max(1), "largest": mean.max(1)}


def weight_scales(mean_abs: np.ndarray, ratio: float) -> np.ndarray:
    """x**ratio / sqrt(max * min): the factors (C,) of one candidate of the search over ratios
    0, 0.05, ... 0.95. ConfigError for a ratio outside 0 to 1."""
    if not 0 <= ratio <= 1:
        raise ConfigError(f"the ratio lies between 0 and 1, not at {ratio}")
    scales = np.maximum(mean_abs**ratio, _SMALLEST)
    factors: np.ndarray = scales / np.sqrt(scales.max() * scales.min())
    return factors
