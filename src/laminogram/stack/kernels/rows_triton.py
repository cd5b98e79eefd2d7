"""One token of several rows: Triton kernels for all that is not a product, and the products around.

Axes: B rows, C channels, A width of RWKV-4's time mixing, F channels of the channel mixer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .row_naive import RowNorm, RowProduct
from .row_triton import _ACTIVATIONS, _NORMS, _SHIFTS, _kernels, power_of_two, started


class Scaled(NamedTuple):
    """What enters the product that writes to the residual: z (B, F), and for fp16 the powers of two
    (B,) that it was divided by."""

    z: Tensor
    scales: Tensor | None


def _launch(size: int) -> dict[str, Any]:
    wide = power_of_two(size)
    return {"WIDE": wide} | started(min(8, max(1, wide // 256)))


def _scales(x: Tensor, dtype: torch.dtype) -> Tensor | None:
    return x.new_empty(x.shape[0], dtype=torch.float32) if dtype is torch.float16 else None


def norm_rows(
    x: Tensor,
    norm: RowNorm,
    dtype: torch.dtype,
    mixes: Sequence[Tensor] = (),
    last: Tensor | None = None,
    kind: str = "lerp",
) -> list[Tensor]:
    """The normalised rows of `x (B, C)`, once for each of the shares `mixes` of the token shift
    with `last` (B, C), which moves on; without a shift once."""
    count = len(mixes) or 1
    outs = [torch.empty(x.shape, device=x.device, dtype=dtype) for _ in range(count)]
    shares = (*(mixes or (norm.weight,)), *[norm.weight] * (3 - count))
    _kernels("rows").norm_rows[(x.shape[0],)](
        x,
        norm.weight,
        norm.bias,
        x if last is None else last,
        *shares,
        *outs,
        *[outs[0]] * (3 - count),
        norm.eps,
        norm.offset,
        C=x.shape[1],
        NORM=_NORMS[norm.kind],
        SHIFT=0 if last is None else _SHIFTS[kind],
        COUNT=count,
        **_launch(x.shape[1]),
    )
    return outs


def act_rows(x: Tensor, activation: str, gate: Tensor | None, dtype: torch.dtype) -> Scaled:
    """`act(x)`, times `gate (B, F)` where there is one, its rows as far apart as those of x."""
    z, scales = torch.empty(x.shape, device=x.device, dtype=dtype), _scales(x, dtype)
    _kernels("rows").act_rows[(x.shape[0],)](
        x,
        gate,
        z,
        scales,
        x.stride(0),
        F=x.shape[1],
        ACT=_ACTIVATIONS[activation],
        SCALED=scales is not None,
        **_launch(x.shape[1]),
    )
    return Scaled(z, scales)


def wkv4_rows(
    r: Tensor, k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor, state: Tensor
) -> Scaled:
    """`sigmoid(r) * wkv` of (B, A) each; `state` (B, 3, A) moves on in place."""
    z, scales = torch.empty_like(r), _scales(r, r.dtype)
    _kernels("rows").wkv4_rows[(r.shape[0],)](
        r,
        k,
        v,
        decay,
        bonus,
        state,
        z,
        scales,
        A=r.shape[1],
        SCALED=scales is not None,
        **_launch(r.shape[1]),
    )
    return Scaled(z, scales)


def add_rows(
    entering: Scaled,
    product: RowProduct,
    x: Tensor,
    gate: Tensor | None = None,
    *,
    keep: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`x + sigmoid(gate) * (z weight')`, x (B, C), and with `keep` what was added."""
    z, scales = entering
    y = torch.nn.functional.linear(z, product.weight)
    if product.bias is not None:  # beside the powers of two, so in the residual's own range
        y = y * (1 if scales is None else scales[:, None]) + product.bias.float()
        scales = None
    out = torch.empty_like(x)
    added = torch.empty_like(x) if keep else None
    _kernels("rows").add_rows[(x.shape[0],)](
        y,
        scales,
        gate,
        x,
        out,
        added,
        C=x.shape[1],
        SCALED=scales is not None,
        **_launch(x.shape[1]),
    )
    return out, added
