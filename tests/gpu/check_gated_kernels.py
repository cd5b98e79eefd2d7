"""Compares the gated product with its reference, alone and in a model.

    python tests/gpu/check_gated_kernels.py

Every activation, sizes that fit no tile, fp16 and bf16; a compiled function over several numbers of
tokens; a Llama made fast (`View.fast`) beside the same without the kernels. Prints a line a check
and exits with 1 if one failed. Needs a Hopper GPU and Triton.
"""

from __future__ import annotations

import sys

import torch
from tests.gpu.check_decode_graph import Checks
from tests.gpu.check_decode_kernels import error, view_of
from torch import Tensor

from laminogram.stack.batch import Batch
from laminogram.stack.kernels import gated_triton
from laminogram.stack.kernels.gated_naive import gated_product_naive
from laminogram.stack.kernels.gated_triton import gated_product, reads_tiles

# Of the largest value: what one rounding of the result makes.
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 5e-3}
SIZES = ((1, 64, 64), (100, 40, 72), (129, 1000, 264), (1000, 2048, 4104), (4096, 2048, 8192))
ACTIVATIONS = ("silu", "gelu", "gelu_new", "relu", "relu2", "sigmoid", "none")
MODEL_TOLERANCE = 6e-2  # bf16 through three layers, other roundings between


def draw(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype) / shape[-1] ** 0.5


def check_products(dtype: torch.dtype, checks: Checks) -> None:
    """Every activation, the largest size with one."""
    for tokens, inputs, outputs in SIZES:
        shape = f"{tokens}x{inputs}x{outputs}"
        h = draw(1, tokens, inputs, dtype=dtype) * inputs**0.5
        weight = draw(2 * outputs, inputs, dtype=dtype)
        for name in ACTIVATIONS if tokens < 4096 else ACTIVATIONS[:1]:
            wanted = gated_product_naive(h, weight, name)
            found = error(gated_product(h, weight, name), wanted)
            checks.below(f"gated, {name}, {shape}", found, TOLERANCE[dtype])


def check_compiled(checks: Checks) -> None:
    """A compiled caller over three numbers of tokens, the later ones by its graph for any."""
    torch._dynamo.reset()
    weight = draw(2 * 512, 256, dtype=torch.bfloat16)

    def layer(h: Tensor) -> Tensor:
        return h + gated_product(2 * h, weight, "silu")[..., :256]

    compiled = torch.compile(layer, fullgraph=True)
    for tokens in (600, 700, 1001):
        h = draw(2, tokens, 256, dtype=torch.bfloat16)
        checks.below(f"compiled, {tokens} tokens", error(compiled(h), layer(h)), 1e-6)


def check_model(checks: Checks) -> None:
    """Graphs of a model with and without the kernels, at a length where they pay."""
    view = view_of("llama", torch.bfloat16)
    ids = torch.randint(0, 1000, (2, gated_triton.LEAST_TOKENS), device="cuda")
    batch = Batch(ids, (ids.shape[1],) * 2, (0, 0), ids.shape[1])
    before, outs = gated_triton.LEAST_TOKENS, {}
    for name, tokens in (("library", 1 << 40), ("gated", 1)):
        gated_triton.LEAST_TOKENS = tokens
        torch._dynamo.reset()
        view.stack.fast = None
        outs[name] = [view.fast().run(batch) for _ in range(3)]  # compiled, captured, replayed
    gated_triton.LEAST_TOKENS = before
    apart = error(outs["gated"][0], outs["library"][0])
    checks.below("a model", apart, MODEL_TOLERANCE)
    checks.above("a model: the kernel ran", apart, 0)
    checks.below("a model, replayed", error(outs["gated"][2], outs["gated"][0]), 1e-6)


@torch.no_grad()
def main() -> int:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    if not reads_tiles(draw(64, 64, dtype=torch.bfloat16)):
        print("the kernels do not serve this GPU", file=sys.stderr)
        return 2
    checks = Checks()
    for dtype in TOLERANCE:
        checks.model = str(dtype).removeprefix("torch.")
        check_products(dtype, checks)
    checks.model = "bfloat16"
    check_compiled(checks)
    check_model(checks)
    print("all passed" if not checks.failed else f"{checks.failed} checks FAILED")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
