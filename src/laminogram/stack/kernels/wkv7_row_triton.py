"""RWKV-7's time mixing for one token of one row, in two Triton kernels.

Axes: C channels, R rank, H heads, D head size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .row_naive import RowNorm, RowProduct, RowShift
from .row_triton import _cut, _kernels, power_of_two, started

COLUMNS = 16  # of a first factor that one program makes: 32 bytes, the least that memory gives
BLOCK_R = 512  # inputs of a first factor that one program adds up
SPLITS, HEAD_WARPS = 4, 2  # programs that share a head, and the warps of each


class LowRank(NamedTuple):
    """A low-rank product: shares of the shift (C,), factors (C, R) and (R, C), offset (C,)."""

    mix: Tensor
    first: Tensor
    second: Tensor
    offset: Tensor | None = None


def time_mix7_in(
    x: Tensor,
    products: tuple[RowProduct, RowProduct, RowProduct],
    ranks: tuple[LowRank, LowRank, LowRank | None, LowRank],
    norm: RowNorm,
    shift: RowShift,
) -> tuple[Tensor, Tensor]:
    """r, k, v (3 * C,), and the first factors of w, a, v, g one after the other as sums over
    parts of the inputs (parts, ranks): all fp32."""
    size = x.numel()
    tiles, constants = _cut("time_mix7_in", size)
    w, a, v, g = ranks
    sizes = [0 if one is None else one.first.shape[1] for one in ranks]
    out = torch.empty(3 * size, device=x.device, dtype=torch.float32)
    block = min(BLOCK_R, power_of_two(size))
    parts = power_of_two(-(-size // block))
    sums = torch.empty(parts, sum(sizes), device=x.device, dtype=torch.float32)
    low = parts * sum(-(-rank // COLUMNS) for rank in sizes)
    _kernels("wkv7_row").time_mix7_in[(low + 3 * -(-size // tiles.rows),)](
        x,
        norm.weight,
        norm.bias,
        shift.last,
        shift.fresh,
        *(p.weight for p in products),
        *(p.mix for p in products),
        w.first,
        a.first,
        g.first if v is None else v.first,
        g.first,
        w.mix,
        a.mix,
        g.mix,
        out,
        sums,
        *sizes,
        norm.eps,
        WIDE=power_of_two(size),
        COLUMNS=COLUMNS,
        BLOCK_R=block,
        PARTS=parts,
        **constants,
    )
    return out, sums


def time_mix7_head(
    rkv: Tensor,
    sums: Tensor,
    ranks: tuple[LowRank, LowRank, LowRank | None, LowRank],
    k_k: Tensor,
    k_a: Tensor,
    r_k: Tensor,
    norm: RowNorm,
    v_first: Tensor | None,
    state: Tensor,
    counter: Tensor,
) -> Tensor:
    """z (C,) fp32, what enters the output projection; `state` (1, H, D, D) moves on in place.

    norm: that of each head's answer. v_first: the side stream (C,), with the low-rank product v.
    counter: (H,) int32 zeros, left as zeros.
    """
    w, a, v, g = ranks
    heads, size = state.shape[1:3]
    sizes = [0 if one is None else one.first.shape[1] for one in ranks]
    wide = power_of_two(size)
    splits = min(SPLITS, wide)
    work = torch.empty(3, heads * size, device=rkv.device, dtype=torch.float32)
    out = torch.empty(heads * size, device=rkv.device, dtype=torch.float32)
    _kernels("wkv7_row").time_mix7_head[(heads, splits)](
        rkv,
        sums,
        w.offset,
        w.second,
        a.offset,
        a.second,
        None if v is None else v.offset,
        None if v is None else v.second,
        g.second,
        k_k,
        k_a,
        r_k,
        norm.weight,
        norm.bias,
        v_first,
        state,
        out,
        work,
        counter,
        norm.eps,
        **dict(zip(("RW", "RA", "RV", "RG"), sizes, strict=True)),
        **{f"WIDE_{x}": power_of_two(max(n, 1)) for x, n in zip("WAVG", sizes, strict=True)},
        PARTS=sums.shape[0],
        C=heads * size,
        D=size,
        WIDE=wide,
        SPLITS=splits,
        **started(HEAD_WARPS),
    )
    return out
