"""A weight times one row on a CPU: what makes a token, beside the prompt's products.

torch reads fp32 weights nearly as fast as memory gives them, but wakes its threads for every
product; bf16 at half of that rate, and it has no product of int8 weights with fp32 rows that is not
slower than fp32. Here each takes what its bytes take.

Axes: O outputs, I inputs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .crew import kernels, lead, numba_missing

LEAST_ENTRIES = 1 << 16
"""Below this, or without numba, torch does it: the weight is in the caches anyway."""
PAIRED = torch.int32
"""What a copy (O, I / 2) of an fp32 weight in pairs of 16 bits (`token/dots.py`) is held in."""
_KINDS = {torch.float32: "FP32", torch.bfloat16: "BF16", torch.int8: "INT8"}


def lies_by_inputs(weight: Tensor) -> bool:
    """Whether `weight (O, I)` lies in memory as (I, O)."""
    return weight.dim() == 2 and not weight.is_contiguous() and weight.t().is_contiguous()


def is_row(x: Tensor) -> bool:
    """Whether `x (..., I)` is one row on a CPU in fp32 or bf16, nothing differentiated or
    compiled."""
    return (
        x.numel() == x.shape[-1]
        and x.is_cpu
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def fits(weight: Tensor, least: int | None = None) -> bool:
    """Whether `matvec` multiplies this weight (O, I) here, and is worth it: it has as many entries
    as `least`, of itself `LEAST_ENTRIES`."""
    return (
        weight.numel() >= (LEAST_ENTRIES if least is None else least)
        and weight.dtype in _KINDS
        and weight.is_cpu
        and weight.is_contiguous()
        and numba_missing() is None
        and weight.shape[1] % kernels().STEP == 0
    )


def fits_by_inputs(weight: Tensor, least: int | None = None) -> bool:
    """Whether this weight (O, I), which lies as (I, O), is multiplied here without its rows of
    zeros; least: as in `fits`."""
    return (
        weight.numel() >= (LEAST_ENTRIES if least is None else least)
        and weight.dtype in (torch.float32, torch.bfloat16)
        and weight.is_cpu
        and lies_by_inputs(weight)
        and numba_missing() is None
    )


def kind_of(weight: Tensor) -> int:
    """The number by which the kernels know the dtype and layout of a weight, or of a copy."""
    layout = "_BY_INPUTS" if lies_by_inputs(weight) else ""
    name = "PAIRS" if weight.dtype is PAIRED else _KINDS[weight.dtype] + layout
    number: int = getattr(kernels(), name)
    return number


def dtype_kind(dtype: torch.dtype) -> int:
    """The number of fp32, bf16 or int8 alone."""
    number: int = getattr(kernels(), _KINDS[dtype])
    return number


def matvec(x: Tensor, weight: Tensor, scale: Tensor | None = None) -> Tensor:
    """`x (..., I)` of one row times `weight (O, I)`: (..., O) in the dtype of `x`, summed in fp32.

    scale: of an int8 weight, fp32 (O,). `is_row(x)` must hold, and `fits` or `fits_by_inputs`.
    """
    steps = 0 if scale is None else scale.data_ptr()
    return product(x, (kind_of(weight), weight.data_ptr(), steps, *weight.shape))


def product(x: Tensor, part: tuple[int, ...]) -> Tensor:
    """The same for a weight as the kernels take it: kind, addresses, shape."""
    row, y = x.reshape(-1).float(), torch.empty(part[3])
    table = np.array(part, np.int64)
    lead(kernels().PRODUCT_WAY, table.ctypes.data, row.data_ptr(), y.data_ptr())
    return y.view(*x.shape[:-1], part[3]).to(x.dtype)
