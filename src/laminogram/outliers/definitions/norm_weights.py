"""Outliers in the weights of norms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from laminogram.outliers.base import Definition, Entry, Evidence
from laminogram.stack.norms import Norm


class NormWeights(Definition):
    """Indices whose gain and bias lie beyond 3 sigma of the layer's mean, in half of the layers.

    Each norm of a layer is judged with the same norm of the other layers. The value is the number
    of such indices that are beyond in this layer. Norms without a bias are judged by their gain
    alone. Published for BERT: 3 sigma and half of the layers; 2 sigma for RoBERTa, a third of the
    layers for BERT-large.
    """

    name = "norm_weights"
    source = "Kovaleva et al. 2021, BERT Busters"
    trap = (
        "Of weights, not of activations: a large gain may meet a small input. Of n weights, "
        "sqrt(n - 1) sigma is the most any can have. There is no interval: nothing is sampled."
    )

    def __init__(self, sigmas: float = 3.0, layers: float = 0.5) -> None:
        self.sigmas, self.layers = sigmas, layers

    def options(self) -> dict[str, Any]:
        """The sigmas and the share of layers."""
        return {"sigmas": self.sigmas, "layers": self.layers}

    def judge(self, evidence: Evidence) -> Iterator[Entry]:
        """Every norm of every layer of the view's plan; nothing without a view."""
        if evidence.view is None:
            return
        view = evidence.view
        numbers = sorted({step.layer for step in view.plan})
        by_name: dict[str, dict[int, np.ndarray]] = {}
        for number in numbers:
            for name, module in view.stack.layer(number).named_modules():
                if isinstance(module, Norm) and module.size == view.config.hidden_size:
                    by_name.setdefault(name, {})[number] = self._beyond(module)
        for name, beyond in by_name.items():
            common = np.mean(list(beyond.values()), axis=0) >= self.layers
            for number, here in beyond.items():
                found = np.flatnonzero(common & here)
                yield Entry(
                    self.name,
                    "indices",
                    name,
                    -1,
                    number,
                    float(len(found)),
                    threshold=0.0,
                    verdict=bool(len(found)),
                    detail={"channels": found[:64].tolist()},
                )

    def _beyond(self, norm: Norm) -> np.ndarray:
        """Which indices (C,) lie beyond in the gain, and in the bias where there is one."""
        found = np.ones(norm.size, dtype=bool)
        for weight in (norm.weight, norm.bias):
            if weight is not None:
                values = weight.detach().double().cpu().numpy()
                found &= np.abs(values - values.mean()) > self.sigmas * values.std()
        return found
