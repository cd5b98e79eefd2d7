"""Run by test_gated_triton in a process of its own, for Triton reads TRITON_INTERPRET on import.

The gated product, interpreted on the CPU, beside its naive reference, and what the compiler is told
of it; prints one line each.
"""

from __future__ import annotations

import torch
from tests.stacks import relative
from torch import Tensor

from laminogram.stack.kernels import gated_triton
from laminogram.stack.kernels.gated_naive import gated_product_naive
from laminogram.stack.kernels.gated_triton import Tiles, gated_product
from laminogram.stack.kernels.row_triton import _ACTIVATIONS

TOLERANCE = 1e-3
"""Twice what rounding to fp16 makes; the interpreter's products in bf16 are wrong."""
MAKE = torch.Generator().manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=MAKE).half()


def compare(tokens: int, inputs: int, outputs: int, names: list[str]) -> None:
    """Sizes that fit no tile, more rows of tiles than run together."""
    h, weight = draw(1, tokens, inputs), draw(2 * outputs, inputs) / 8
    for name in names:
        found = gated_product(h, weight, name)
        assert found.shape == (1, tokens, outputs) and found.dtype == torch.float16
        assert relative(found.float(), gated_product_naive(h, weight, name)) < TOLERANCE, name
    print(f"{tokens}x{inputs}x{outputs}: equal")


def compare_layouts() -> None:
    """Inputs whose rows lie apart, and a weight at an address that 16 bytes do not divide."""
    h, weight = draw(2, 9, 32)[:, 1:, :16], draw(16 * 16 + 1)[1:].view(16, 16)
    wanted = gated_product_naive(h, weight, "silu")
    assert relative(gated_product(h, weight, "silu").float(), wanted) < TOLERANCE
    print("layouts: equal")


def trace() -> None:
    """What the compiler is told of the results is what they are."""
    kinds = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    given = draw(20, 24), draw(32, 24), "silu"
    torch.library.opcheck(torch.ops.laminogram.gated_product.default, given, test_utils=kinds)
    print("traced")


if __name__ == "__main__":
    gated_triton.TILES = Tiles(32, 32, 16, 2, 4, 2)
    compare(100, 40, 72, list(_ACTIVATIONS))
    compare(33, 8, 32, ["silu"])
    compare(1, 64, 8, ["gelu"])
    compare_layouts()
    trace()
