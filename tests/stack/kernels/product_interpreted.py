"""Run by test_product_triton in a process of its own, for Triton reads TRITON_INTERPRET on import.

Products that end in a gate or a sum, interpreted on the CPU, beside their naive references, and
what the compiler is told of them; prints one line each.
"""

from __future__ import annotations

import torch
from tests.stacks import relative
from torch import Tensor

from laminogram.stack.kernels import product_triton
from laminogram.stack.kernels.product_naive import added_product_naive, gated_product_naive
from laminogram.stack.kernels.product_triton import Tiles, added_product, gated_product
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
    x, own = draw(1, tokens, outputs), weight[outputs:]
    found = added_product(h, own, x)
    assert found.shape == x.shape and found.dtype == x.dtype
    assert relative(found.float(), added_product_naive(h, own, x)) < TOLERANCE
    print(f"{tokens}x{inputs}x{outputs}: equal")


def compare_layouts() -> None:
    """Inputs whose rows lie apart, and a weight at an address that 16 bytes do not divide."""
    h, x = draw(2, 9, 32)[:, 1:, :16], draw(2, 9, 32)[:, :8, 16:]
    weight = draw(16 * 16 + 1)[1:].view(16, 16)
    found = added_product(h, weight, x)
    assert relative(found.float(), added_product_naive(h, weight, x)) < TOLERANCE
    wanted = gated_product_naive(h, weight, "silu")
    assert relative(gated_product(h, weight, "silu").float(), wanted) < TOLERANCE
    print("layouts: equal")


def trace() -> None:
    """What the compiler is told of the results is what they are."""
    kinds = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    h, weight, x = draw(20, 24), draw(32, 24), draw(20, 32)
    operators = torch.ops.laminogram
    torch.library.opcheck(operators.gated_product.default, (h, weight, "silu"), test_utils=kinds)
    torch.library.opcheck(operators.added_product.default, (h, weight, x), test_utils=kinds)
    print("traced")


if __name__ == "__main__":
    for name in product_triton.TILES:
        product_triton.TILES[name] = Tiles(32, 32, 16, 2, 4, 2)
    compare(100, 40, 72, list(_ACTIVATIONS))
    compare(33, 8, 32, ["silu"])
    compare(1, 64, 8, ["gelu"])
    compare_layouts()
    trace()
