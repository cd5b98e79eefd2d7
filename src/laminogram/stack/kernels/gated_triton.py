"""The gate and up projection of an MLP for many tokens, with its activation, as one kernel on
Hopper GPUs.

The arithmetic is that of `gated_naive`. Between the products and the result nothing is rounded
and nothing goes through memory, which takes the activation off the time of a forward. The module
imports without Triton.
"""

from __future__ import annotations

import importlib
from functools import cache
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
    """How a product is cut: tokens, outputs and inputs of a tile, the rows of tiles that run
    together, warps of a program, and tiles of inputs under way at once."""

    tokens: int
    outputs: int
    inputs: int
    group: int
    warps: int
    stages: int


TILES = Tiles(256, 64, 64, 4, 8, 3)
"""Of the gate; a tile has as many outputs of the up projection beside them. A fourth stage is all
that shared memory holds: 5 % faster alone, not in a forward, whose bound is the card's power."""


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


# An operator, so that the compiler takes it into its graph for any number of tokens.


@torch.library.custom_op("laminogram::gated_product", mutates_args=())
def _gated(h: Tensor, weight: Tensor, activation: str) -> Tensor:
    rows, columns = h.shape[0], weight.shape[0] // 2
    out = h.new_empty(rows, columns)
    halves = weight.view(2, columns, -1)
    described = (
        _described(h, (TILES.tokens, TILES.inputs)),
        _described(halves, (2, TILES.outputs, TILES.inputs)),
        _described(out, (TILES.tokens, TILES.outputs)),
    )
    tiles = -(-rows // TILES.tokens) * -(-columns // TILES.outputs)
    processors = _processors(out.device)
    with torch.cuda.device_of(out):
        _kernels().gated_product[(min(tiles, processors),)](
            *described,
            rows,
            columns,
            h.shape[1],
            ACT=_ACTIVATIONS[activation],
            BLOCK_M=TILES.tokens,
            BLOCK_N=TILES.outputs,
            BLOCK_K=TILES.inputs,
            GROUP=TILES.group,
            PROGRAMS=processors,
            num_warps=TILES.warps,
            num_stages=TILES.stages,
        )
    return out


@_gated.register_fake
def _(h: Tensor, weight: Tensor, activation: str) -> Tensor:
    return h.new_empty(h.shape[0], weight.shape[0] // 2)


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":  # interpreted
        return 3
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


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
    return importlib.import_module("._gated_triton_kernels", __package__)
