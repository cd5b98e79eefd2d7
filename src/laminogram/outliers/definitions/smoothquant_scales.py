"""The activation scales of SmoothQuant."""

from __future__ import annotations

import numpy as np

from laminogram.errors import ConfigError
from laminogram.outliers.base import OfPlaces, Place, Quantities
from laminogram.outliers.definitions.channel_max_ratio import ratio_to_median
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.scales import Scales

_SMALLEST = 1e-5


class SmoothQuantScales(OfPlaces):
    """Per input channel of every product with a weight: max |x| over all tokens.

    The scales themselves are `absmax` of the statistic `scales`; the table has how far the largest
    lies above the middle one. `smoothing` turns them into factors.
    """

    name = "smoothquant_scales"
    source = "Xiao et al. 2023, mit-han-lab/smoothquant calibration.py"
    trap = (
        "It is the input of the product, after the norm: the residual before the norm has other "
        "channels on top. Published scales are of 512 texts of at most 512 tokens."
    )
    sites = ("attn_in", "z", "ffn_in", "ffn_act")

    def statistics(self) -> tuple[Statistic, ...]:
        """Maxima of channels."""
        return (Scales(),)

    def quantities(self, place: Place) -> Quantities:
        """`ratio`: the largest scale as a multiple of the median one; `largest`."""
        absmax = place["scales"]["absmax"]
        return {"ratio": ratio_to_median(absmax).max(1), "largest": absmax.max(1)}


def smoothing(absmax: np.ndarray, weight_absmax: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """The factors (C,) by which activations are divided and weights multiplied.

    absmax, weight_absmax: (C,) largest |x| and largest |W[:, c]| of each input channel; alpha from
    0 (all difficulty stays in the activations) to 1. ConfigError beyond.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha lies between 0 and 1, not at {alpha}")
    activations = np.maximum(absmax, _SMALLEST)
    weights = np.maximum(weight_absmax, _SMALLEST)
    return np.maximum(activations**alpha / weights ** (1 - alpha), _SMALLEST)
