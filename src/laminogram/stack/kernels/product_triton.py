"""Products of many tokens with what follows them done on the way out, on Hopper GPUs: the gate of
an MLP, and a sum with the residual.

The arithmetic is that of `product_naive`. Between the product and the result nothing is rounded and
nothing goes through memory, which takes the activation off the time of a forward. The module
imports without Triton.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .row_triton import _ACTIVATIONS, INTERPRETED
from .wkv4_triton import triton_missing

_DTYPES = (torch.float16, torch.bfloat16)
_ALIGNED = 8
"""Entries in the 16 bytes that a row of a descriptor's tensor is a multiple of."""
LEAST_TOKENS = 512
"""With fewer tokens there are too few tiles to keep a GPU busy, and the library's kernels win."""


class Tiles(NamedTuple):
    """How a product is cut: a program's tokens, outputs and inputs at a time, the rows of tiles
    that run together, warps, and tiles of inputs under way at once."""

    tokens: int
    outputs: int
    inputs: int
    group: int
    warps: int
    stages: int


TILES = {
    "gated_product": Tiles(128, 128, 64, 16, 8, 4),
    "added_product": Tiles(128, 256, 64, 8, 8, 3),
}


def reads_tiles(weight: Tensor) -> bool:
    """Whether the kernels can read a weight (out, in) where it lies. It asks about the device, so
    it is asked before anything is compiled."""
    return (
        weight.dtype in _DTYPES
        and weight.is_contiguous()
        and weight.shape[1] % _ALIGNED == 0
        and triton_missing() is None
        and (INTERPRETED or _is_hopper(weight.device))
    )


def _is_hopper(device: torch.device) -> bool:
    # The tiles fill Hopper's memories; other architectures have smaller ones, or other units.
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability(device) == (9, 0)


def pays(h: Tensor, outputs: int) -> bool:
    """Whether a product of `h (..., in)` with so many outputs is for these kernels."""
    return h.numel() >= LEAST_TOKENS * h.shape[-1] and outputs % _ALIGNED == 0


def gated_product(h: Tensor, weight: Tensor, activation: str) -> Tensor:
    """`act(gate h) * (up h)`: the gate and the up projection of an MLP, and its activation.

    Args:
        h: (..., C), fp16 or bf16.
        weight: (2 F, C) of the same dtype, the rows of the gate above those of the up projection.
        activation: a name that `row_triton.can_activate` knows.

    Returns:
        (..., F) in the dtype of h. There is no gradient.

    Raises:
        RuntimeError: Triton is missing.
    """
    out: Tensor = _gated(h.reshape(-1, h.shape[-1]), weight, activation)
    return out.view(*h.shape[:-1], -1)


def added_product(z: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """`x + weight z` for `z (..., K)`, weight (N, K) and the residual `x (..., N)`, all of one
    dtype, fp16 or bf16: (..., N), rounded once. There is no gradient.

    RuntimeError where Triton is missing.
    """
    out: Tensor = _added(z.reshape(-1, z.shape[-1]), weight, x.reshape(-1, x.shape[-1]))
    return out.view(x.shape)


# Operators, so that the compiler takes them into its graph for any number of tokens.


@torch.library.custom_op("laminogram::gated_product", mutates_args=())
def _gated(h: Tensor, weight: Tensor, activation: str) -> Tensor:
    out = h.new_empty(h.shape[0], weight.shape[0] // 2)
    _launch("gated_product", (h, weight), out, ACT=_ACTIVATIONS[activation])
    return out


@_gated.register_fake
def _(h: Tensor, weight: Tensor, activation: str) -> Tensor:
    return h.new_empty(h.shape[0], weight.shape[0] // 2)


@torch.library.custom_op("laminogram::added_product", mutates_args=())
def _added(z: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    out = x.new_empty(x.shape)
    _launch("added_product", (z, weight, x), out)
    return out


@_added.register_fake
def _(z: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _launch(name: str, inputs: tuple[Tensor, ...], out: Tensor, **constants: Any) -> None:
    """Run a kernel over the tiles of `out (M, N)`; inputs: (M, K), (.., K), and any (M, N)."""
    kernel, tiles = getattr(_kernels(), name), TILES[name]
    result = (tiles.tokens, tiles.outputs)
    blocks = ((tiles.tokens, tiles.inputs), (tiles.outputs, tiles.inputs), result)
    described = [_described(x, block) for x, block in zip(inputs, blocks)]
    rows, columns = out.shape
    programs = -(-rows // tiles.tokens) * -(-columns // tiles.outputs)
    with torch.cuda.device_of(out):
        kernel[(programs,)](
            *described,
            _described(out, result),
            rows,
            columns,
            inputs[0].shape[1],
            BLOCK_M=tiles.tokens,
            BLOCK_N=tiles.outputs,
            BLOCK_K=tiles.inputs,
            GROUP=tiles.group,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
            **constants,
        )


def _described(x: Tensor, block: tuple[int, ...]) -> Any:
    """A descriptor of x in blocks; x is copied where its rows lie apart, or at an address that 16
    bytes do not divide."""
    x = x.contiguous()
    x = x if x.data_ptr() % 16 == 0 else x.clone()
    tools = importlib.import_module("triton.tools.tensor_descriptor")
    return tools.TensorDescriptor.from_tensor(x, list(block))


def _kernels() -> ModuleType:
    missing = triton_missing()
    if missing is not None:
        raise RuntimeError(f"products by tensor descriptors need Triton, but {missing}")
    return importlib.import_module("._product_triton_kernels", __package__)
