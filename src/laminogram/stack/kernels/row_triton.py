"""One token of one row through a layer in few Triton kernels: the decode step on a GPU.

The arithmetic is that of `row_naive`. Sums are fp32 and nothing between the residual and a result
is rounded, so fp16 weights need no scaling against overflow. The module imports without Triton.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .row_naive import RowNorm, RowProduct, RowShift
from .wkv4_triton import triton_missing

_NORMS = {"rms": 1, "layer": 2}
_SHIFTS = {"lerp": 1, "moved": 2}
_ACTIVATIONS = {
    "none": 0,
    "silu": 1,
    "swish": 1,
    "gelu": 2,
    "gelu_new": 3,
    "gelu_fast": 3,
    "gelu_pytorch_tanh": 3,
    "relu": 4,
    "relu2": 5,
    "sigmoid": 6,
}
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


class Tiles(NamedTuple):
    """How a kernel is cut: output rows and inputs of a program's tile, and its warps."""

    rows: int
    inputs: int
    warps: int


TILES = {
    "project": Tiles(4, 1024, 4),
    "project_wide": Tiles(4, 2048, 4),
    "gated": Tiles(2, 2048, 4),
    "add_back": Tiles(4, 2048, 4),
    "time_mix4": Tiles(2, 2048, 4),
    "time_mix7_in": Tiles(4, 2048, 4),
}
WIDE_ROWS = 8192
"""Output rows from which products are `project_wide`: enough programs for tiles twice the size."""


def can_activate(name: str) -> bool:
    """Whether the kernels know an activation."""
    return name in _ACTIVATIONS


def _kernels(name: str) -> ModuleType:
    missing = triton_missing()
    if missing is not None:
        raise RuntimeError(f"decoding by fused kernels needs Triton, but {missing}")
    return importlib.import_module(f"._{name}_triton_kernels", __package__)


def power_of_two(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()


def _cut(name: str, inputs: int) -> tuple[Tiles, dict[str, Any]]:
    """The tiles of a kernel for so many inputs, and the constants that say so."""
    tiles = TILES[name]
    block = min(tiles.inputs, power_of_two(inputs))
    constants = {"K": inputs, "BLOCK_N": tiles.rows, "BLOCK_K": block}
    return tiles, constants | started(tiles.warps)


def started(warps: int) -> dict[str, Any]:
    """How a kernel is launched: its warps, and whether it may begin before the last one ends."""
    early = begins_early()
    return {"PDL": early, "num_warps": warps} | ({"launch_pdl": True} if early else {})


@cache
def begins_early() -> bool:
    """Whether the GPU lets a kernel begin before the one before has ended (from Hopper on)."""
    if INTERPRETED or not torch.cuda.is_available() or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability() >= (9, 0)


def _norm_arguments(norm: RowNorm | None, x: Tensor) -> tuple[Any, ...]:
    """gain, bias, eps, offset, and the constants NORM and WIDE."""
    if norm is None:
        return x, None, 0.0, 0.0, {"NORM": 0, "WIDE": 1}
    wide = {"NORM": _NORMS[norm.kind], "WIDE": power_of_two(x.numel())}
    return norm.weight, norm.bias, norm.eps, norm.offset, wide


def project(
    x: Tensor,
    products: list[RowProduct],
    norm: RowNorm | None = None,
    shift: RowShift | None = None,
    out_dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Up to three products of one normalised, shifted token, activated: each (N,).

    x: the residual, C entries. The shift's `fresh` is written.
    """
    count = len(products)
    one, two, three = (*products, *[products[0]] * (3 - count))
    sizes = [p.weight.shape[0] for p in products] + [0] * (3 - count)
    tiles, constants = _cut("project_wide" if sum(sizes) >= WIDE_ROWS else "project", x.numel())
    gain, bias, eps, offset, wide = _norm_arguments(norm, x)
    outs = [torch.empty(n, device=x.device, dtype=out_dtype) for n in sizes[:count]]
    targets = (*outs, *[outs[0]] * (3 - count))
    grid = (sum(-(-n // tiles.rows) for n in sizes),)
    _kernels("row").project[grid](
        x,
        gain,
        bias,
        x if shift is None else shift.last,
        x if shift is None else shift.fresh,
        *(p.weight for p in (one, two, three)),
        *(p.bias for p in (one, two, three)),
        *(gain if p.mix is None else p.mix for p in (one, two, three)),
        *targets,
        *sizes,
        eps,
        offset,
        SHIFT=0 if shift is None else _SHIFTS[shift.kind],
        **{f"A{i}": _ACTIVATIONS[p.activation] for i, p in enumerate((one, two, three))},
        **wide,
        **constants,
    )
    return outs


def gated(x: Tensor, gate: RowProduct, up: RowProduct, norm: RowNorm | None = None) -> Tensor:
    """`act(gate h) * (up h)` of one normalised token: (N,) fp32."""
    tiles, constants = _cut("gated", x.numel())
    gain, bias, eps, offset, wide = _norm_arguments(norm, x)
    rows = gate.weight.shape[0]
    out = torch.empty(rows, device=x.device, dtype=torch.float32)
    _kernels("row").gated[(-(-rows // tiles.rows),)](
        x,
        gain,
        bias,
        gate.weight,
        up.weight,
        gate.bias,
        up.bias,
        out,
        rows,
        eps,
        offset,
        ACT=_ACTIVATIONS[gate.activation],
        **wide,
        **constants,
    )
    return out


def add_back(
    z: Tensor,
    product: RowProduct,
    x: Tensor,
    gate: Tensor | None = None,
    shift: RowShift | None = None,
    *,
    keep: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`x + gate * (weight z + bias)`, shaped as x, and with `keep` what was added.

    The token shift that `project` began moves on.
    """
    tiles, constants = _cut("add_back", z.numel())
    rows = product.weight.shape[0]
    out = torch.empty_like(x)
    added = torch.empty_like(x) if keep else None
    _kernels("row").add_back[(-(-rows // tiles.rows),)](
        z,
        product.weight,
        product.bias,
        gate,
        x,
        out,
        added,
        None if shift is None else shift.fresh,
        None if shift is None else shift.last,
        rows,
        **constants,
    )
    return out, added


def time_mix4(
    x: Tensor,
    r: RowProduct,
    k: RowProduct,
    v: RowProduct,
    decay: Tensor,
    bonus: Tensor,
    norm: RowNorm,
    shift: RowShift,
    state: Tensor,
) -> Tensor:
    """RWKV-4's time mixing up to its output projection: z (A,) fp32. `state` (1, 3, A) moves on."""
    tiles, constants = _cut("time_mix4", x.numel())
    width = decay.numel()
    out = torch.empty(width, device=x.device, dtype=torch.float32)
    _kernels("row").time_mix4[(-(-width // tiles.rows),)](
        x,
        norm.weight,
        norm.bias,
        shift.last,
        shift.fresh,
        *(p.weight for p in (r, k, v)),
        *(p.mix for p in (r, k, v)),
        decay,
        bonus,
        state,
        out,
        width,
        norm.eps,
        WIDE=power_of_two(x.numel()),
        **constants,
    )
    return out
