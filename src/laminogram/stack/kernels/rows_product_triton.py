"""Products of few rows with weights of 16 bits by own kernels: each weight is read once, without
pause between one product and the next.

The library's kernels are made for many rows: with up to `MOST_ROWS` they leave memory idle between
kernels, add up in a kernel of its own what they have split, and read a weight whose number of
outputs is odd at a third of the speed. Everything else is left to the library.

Axes: B rows, K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .row_naive import RowProduct
from .row_triton import _ACTIVATIONS, INTERPRETED, _kernels, power_of_two, started
from .wkv4_triton import triton_missing

MOST_ROWS = 128
"""More rows make the products no longer a matter of reading weights."""
BLOCK_N, BLOCK_K, WARPS, STAGES = 64, 128, 4, 5
"""Outputs of a program, inputs at a time, its warps, and tiles of inputs under way at once."""
MOST_SPLITS = 8
WIDER = 2
"""Up to so many blocks a processor are made wider, so that all run at once."""
LINES = 256
"""Of 64 inputs of an output each, that a program asks for before its rows are there: the first
tiles would wait behind more of them."""
LEAST_OUTPUTS = 16384
"""From so many on a product by itself is done here, too, such as a head's."""
_DTYPES = (torch.float16, torch.bfloat16)

Counter = Callable[[int, torch.device], Tensor]
"""Gives zeros (size,) int32, which are left as zeros."""


def serves(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether rows `x (B, K)` meet weights of a dtype in these kernels."""
    if dtype not in _DTYPES or not 1 < x.shape[0] <= MOST_ROWS or x.shape[1] % 8:
        return False
    return INTERPRETED or (x.is_cuda and triton_missing() is None and _is_ampere(x.device))


@cache
def _is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 8
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def _memory(device: torch.device) -> int:
    """Bytes of shared memory that a program may take."""
    if device.type != "cuda":
        return 227 << 10
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)


def are_few_rows(x: Tensor, weight: Tensor) -> bool:
    """Whether a single product `x (..., K)`, weight (N, K), is faster here than in the library, and
    nothing is differentiated or compiled: one of so many outputs that they need not be split, such
    as a head's."""
    return (
        weight.shape[0] >= LEAST_OUTPUTS
        and x.dtype is weight.dtype
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and x.is_contiguous()
        and weight.is_contiguous()
        and (not x.is_cuda or x.get_device() == torch.cuda.current_device())  # Triton's
        and serves(x.view(-1, x.shape[-1]), weight.dtype)
    )


def product_of_few_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x (..., K) weight' + bias`, where `are_few_rows` says so."""
    rows = x.view(-1, x.shape[-1])
    (out,) = product_rows((rows,), (RowProduct(weight, bias),), _no_counter)
    return out.view(*x.shape[:-1], -1)


def _no_counter(size: int, device: torch.device) -> Tensor:
    return torch.zeros(size, device=device, dtype=torch.int32)


class _Cut(NamedTuple):
    """How products are cut: blocks of outputs, among how many programs the inputs of a block are
    shared, and the constants of the launch."""

    blocks: int
    splits: int
    constants: dict[str, Any]


def _tiles(
    x: Tensor, sizes: Sequence[int], inputs: int, *, gated: bool = False
) -> tuple[int, dict[str, Any]]:
    """For rows x and weights of so many outputs and up to so many inputs: how many blocks of
    outputs there are, and the constants that say how they are cut. `gated`: two weights a program.
    """
    rows, processors = max(16, power_of_two(x.shape[0])), _processors(x.device)
    outputs, blocks = BLOCK_N, _blocks(sizes, BLOCK_N)
    if not gated and processors < blocks <= WIDER * processors:  # else a few run after the others
        outputs, blocks = 2 * BLOCK_N, _blocks(sizes, 2 * BLOCK_N)
    block = min(BLOCK_K, max(16, power_of_two(inputs)))
    while (least := 2 * 2 * (outputs * (1 + gated) + rows) * block) > _memory(x.device):
        block //= 2
    constants = {
        "ROWS": rows,
        "BLOCK_N": outputs,
        "BLOCK_K": block,
        "num_stages": min(STAGES, 2 * _memory(x.device) // least),
    }
    return blocks, constants | started(WARPS)


def _lines(inputs: int, outputs: int) -> int:
    """Lines of 64 inputs of so many outputs that a program of `inputs` asks for ahead."""
    return min(LINES // outputs, power_of_two(-(-inputs // 64)))


def _cut(x: Tensor, sizes: Sequence[int], *, gated: bool = False) -> _Cut:
    """For rows x (B, K) and weights of so many outputs: programs that all run at once, as many as
    there are processors or somewhat fewer. `gated`: two weights a program, all of their inputs."""
    inputs = x.shape[1]
    blocks, tiles = _tiles(x, sizes, inputs, gated=gated)
    block, fit = tiles["BLOCK_K"], _processors(x.device) // blocks
    most = 1 if gated else max(1, min(fit, inputs // (2 * block), MOST_SPLITS))
    share = -(-inputs // ((1 << (most.bit_length() - 1)) * block)) * block
    lines = _lines(share, tiles["BLOCK_N"] * (1 + gated))
    constants = {"K": inputs, "SHARE": share, "LINES": lines}
    return _Cut(blocks, -(-inputs // share), constants | tiles)


def _blocks(sizes: Sequence[int], outputs: int) -> int:
    return sum(-(-size // outputs) for size in sizes)


def _room(cut: _Cut, x: Tensor, counter: Counter) -> tuple[Tensor, Tensor]:
    """Where programs leave their sums, and the counters of the blocks."""
    if cut.splits == 1:
        return x, x
    of_block = cut.constants["BLOCK_N"] * cut.constants["ROWS"]
    parts = x.new_empty(cut.blocks * cut.splits * of_block, dtype=torch.float32)
    return parts, counter(cut.blocks, x.device)


def product_rows(
    inputs: Sequence[Tensor], products: Sequence[RowProduct], counter: Counter
) -> list[Tensor]:
    """Up to three products, activated, each of rows `(B, K)` of its own: (B, N) each, in the dtype
    of the weights. `mix` of a product is not looked at."""
    count, x = len(products), inputs[0]
    rows, fill = x.shape[0], 3 - count
    sizes = [len(one.weight) for one in products] + [0] * fill
    cut = _cut(x, sizes)
    outs = [x.new_empty(rows, len(one.weight), dtype=one.weight.dtype) for one in products]
    kinds = [_ACTIVATIONS[one.activation] for one in products] + [0] * fill
    _kernels("rows_product").product_rows[(cut.blocks, cut.splits)](
        *inputs,
        *[x] * fill,
        *(one.weight for one in products),
        *[products[0].weight] * fill,
        *(one.bias for one in products),
        *[None] * fill,
        *outs,
        *[outs[0]] * fill,
        *sizes,
        rows,
        *_room(cut, x, counter),
        SPLITS=cut.splits,
        **{f"A{i}": kind for i, kind in enumerate(kinds)},
        **cut.constants,
    )
    return outs


def gated_rows(x: Tensor, gate: RowProduct, up: RowProduct) -> Tensor:
    """`act(gate x) * (up x)` of rows `x (B, K)`: (B, N) in the dtype of the weights."""
    outputs = len(gate.weight)
    cut = _cut(x, [outputs], gated=True)
    out = x.new_empty(x.shape[0], outputs, dtype=gate.weight.dtype)
    _kernels("rows_product").gated_rows[(cut.blocks,)](
        x,
        gate.weight,
        up.weight,
        gate.bias,
        up.bias,
        out,
        outputs,
        x.shape[0],
        ACT=_ACTIVATIONS[gate.activation],
        **cut.constants,
    )
    return out


def can_share(weights: Sequence[Tensor]) -> bool:
    """Whether `share_rows` takes weights that `serves`, together."""
    return all(
        len(one) == len(weights[0])
        and one.is_contiguous()
        and one.shape[1] % 8 == 0
        and one.data_ptr() % 16 == 0
        and one.numel() < 1 << 31
        for one in weights
    )


def share_rows(inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Up to three products of N outputs each, `x (B, K) weight'`, each of rows and inputs of its
    own: sums over shares of the inputs, (S, B, N) each, fp32, which lie equally far apart."""
    x, outputs, fill = inputs[0], len(weights[0]), 3 - len(weights)
    sizes = [one.shape[1] for one in weights]
    blocks, constants = _tiles(x, [outputs], max(sizes))
    block = constants["BLOCK_K"]
    counts = [-(-size // block) for size in sizes]
    fit = _processors(x.device) // blocks
    share = -(-sum(counts) // max(1, min(fit, sum(counts) // 2, MOST_SPLITS)))
    programs = -(-sum(counts) // share)
    sums = x.new_empty(programs + len(weights) - 1, x.shape[0], outputs, dtype=torch.float32)
    _kernels("rows_product").share_rows[(blocks, programs)](
        *inputs,
        *[x] * fill,
        *weights,
        *[weights[0]] * fill,
        sums,
        outputs,
        x.shape[0],
        **{f"K{i}": size for i, size in enumerate(sizes + [0] * fill)},
        SHARE=share,
        LINES=_lines(share * block, constants["BLOCK_N"]),
        **constants,
    )
    ends = list(accumulate(counts))
    return [
        sums[(end - count) // share + i : (end - 1) // share + i + 1]
        for i, (count, end) in enumerate(zip(counts, ends, strict=True))
    ]
