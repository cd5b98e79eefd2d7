"""One token of several rows: Triton kernels for all that is not a product.

Axes: B rows, C channels, A width of RWKV-4's time mixing, F channels of the channel mixer, S shares
of a product's inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .row_naive import RowNorm
from .row_triton import _ACTIVATIONS, _NORMS, _SHIFTS, _kernels, power_of_two, started
from .wkv4_triton import triton_missing

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class Scaled(NamedTuple):
    """What enters the product that writes to the residual: z (B, F), and for fp16 the powers of two
    (B,) that it was divided by."""

    z: Tensor
    scales: Tensor | None


class Update(NamedTuple):
    """What is to be added to the residual: the sum of parts (S, B, C), times scales (B,), plus bias
    (C,), times the sigmoid of the sum of gate (S, B, C), whose parts are as far from each other."""

    parts: Tensor
    scales: Tensor | None = None
    bias: Tensor | None = None
    gate: Tensor | None = None


class Stream(NamedTuple):
    """The residual x (B, C), to which an update may still have to be added."""

    x: Tensor
    update: Update | None = None


WKV_PART = 512
"""Channels of a program of RWKV-4's time mixing, where it need not know a row's largest entry."""


def _launch(size: int) -> dict[str, Any]:
    wide = power_of_two(size)
    return {"WIDE": wide} | started(min(16, max(1, wide // 128)))


def _scales(x: Tensor, dtype: torch.dtype) -> Tensor | None:
    return x.new_empty(x.shape[0], dtype=torch.float32) if dtype is torch.float16 else None


def norm_rows(
    stream: Stream,
    norm: RowNorm,
    dtype: torch.dtype,
    mixes: Sequence[Tensor] = (),
    last: Tensor | None = None,
    kind: str = "lerp",
) -> tuple[Tensor, list[Tensor]]:
    """The residual (B, C) with its update, and its normalised rows, once for each of the shares
    `mixes` of the token shift with `last` (B, C), which moves on; without a shift once."""
    x, update = stream
    count = len(mixes) or 1
    outs = [torch.empty(x.shape, device=x.device, dtype=dtype) for _ in range(count)]
    shares = (*(mixes or (norm.weight,)), *[norm.weight] * (3 - count))
    parts, scales, bias, gate = Update(x) if update is None else update
    out = x if update is None else torch.empty_like(x)
    _kernels("rows").norm_rows[(x.shape[0],)](
        x,
        parts,
        scales,
        bias,
        gate,
        out,
        norm.weight,
        norm.bias,
        x if last is None else last,
        *shares,
        *outs,
        *[outs[0]] * (3 - count),
        parts.stride(0),
        norm.eps,
        norm.offset,
        C=x.shape[1],
        SPLITS=0 if update is None else len(parts),
        GATES=0 if gate is None else len(gate),
        NORM=_NORMS[norm.kind],
        SHIFT=0 if last is None else _SHIFTS[kind],
        COUNT=count,
        **_launch(x.shape[1]),
    )
    return out, outs


def is_token(x: Tensor) -> bool:
    """Whether `x (B, 1, C)` on a GPU is one token a row, of a kind that `norm_tokens` takes, and
    nothing is differentiated or compiled: torch's own norms are made for many more rows."""
    return (
        x.dim() == 3
        and x.shape[1] == 1
        and x.dtype in _DTYPES
        and x.is_contiguous()
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and triton_missing() is None
        and x.get_device() == torch.cuda.current_device()  # where Triton launches
    )


def norm_tokens(x: Tensor, norm: RowNorm, dtype: torch.dtype) -> Tensor:
    """The normalised `x (B, 1, C)`."""
    _, (out,) = norm_rows(Stream(x[:, 0]), norm, dtype)
    return out[:, None]


def add_rows(stream: Stream, *, keep: bool = False) -> tuple[Tensor, Tensor | None]:
    """The residual (B, C) with its update, and with `keep` what was added."""
    x, update = stream
    if update is None:
        return x, None
    out = torch.empty_like(x)
    added = torch.empty_like(x) if keep else None
    _kernels("rows").add_rows[(x.shape[0],)](
        x,
        *update,
        out,
        added,
        update.parts.stride(0),
        C=x.shape[1],
        SPLITS=len(update.parts),
        GATES=0 if update.gate is None else len(update.gate),
        **_launch(x.shape[1]),
    )
    return out, added


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
    r: Tensor, k: Tensor, v: Tensor, dtype: torch.dtype, decay: Tensor, bonus: Tensor, state: Tensor
) -> Scaled:
    """`sigmoid(r) * wkv` of the sums of (S, B, A) each, whose parts are equally far from each
    other; `state` (B, 3, A) moves on in place."""
    _, rows, width = r.shape
    z = torch.empty(rows, width, device=r.device, dtype=dtype)
    scales = _scales(z, dtype)
    part = width if scales is not None else min(width, WKV_PART)
    _kernels("rows").wkv4_rows[(rows, -(-width // part))](
        r,
        k,
        v,
        decay,
        bonus,
        state,
        z,
        scales,
        r.stride(0),
        A=width,
        R=len(r),
        K=len(k),
        V=len(v),
        SCALED=scales is not None,
        **_launch(part),
    )
    return Scaled(z, scales)
