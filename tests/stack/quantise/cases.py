"""Weights and precisions that the tests of quantisation share."""

from __future__ import annotations

import torch

FORMATS = (
    "int8",
    "int8-per-tensor",
    "int4-g128",
    "int4-g5-asym",
    "fp8",
    "fp8-per-row",
    "fp8-e5m2",
    "fp8-blocks",
    "mxfp4",
)
"""Every way to store a weight, by canonical name."""

ALONE = (
    *FORMATS,
    "int8-a8",
    "int4-g16-asym-a8",
    "fp8-per-row-a8",
    "llm.int8-per-token",
    "bf16+int8-a8",
    "fp16+int8",
)
"""Precisions in which a token's numbers depend on its own text alone."""

TOGETHER = ("int8-a8-per-tensor", "fp8-a8-per-tensor", "llm.int8")
"""Precisions in which they depend on what shares the forward."""


def weight(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """A weight (rows, columns) whose rows differ in size, with a few large entries."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.exp(torch.randn(rows, 1, generator=generator))
    entries = torch.randn(rows, columns, generator=generator) * sizes
    return torch.where(torch.rand(rows, columns, generator=generator) < 0.02, 8 * entries, entries)


def inputs(rows: int, columns: int, seed: int = 1) -> torch.Tensor:
    """Inputs (rows, columns) of which column 1 is an outlier feature, and token 0 has one more."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    x[:, 1] *= 12
    x[0, 2] = -9
    return x
