"""Attention of one new token a row over a cache of fixed size, with rotary turn and cache write.

Axes: B rows, H heads, K key heads, D head size, S columns, R turned channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .row_triton import _kernels, power_of_two, started

BLOCK_S, STAGES = 64, 2
"""Columns of a part at a time, and such blocks under way at once."""
WIDE_S, WIDE_STAGES = 128, 1
"""The same of heads in one part, of which so many run at once that none need look ahead."""
MOST_PARTS = 16
MOST_PROGRAMS = 512
"""More do not fit on a card at once, and what parts leave to be joined then costs more than their
sharing of a head gains: 64 rows of 8 key heads are fastest in one part."""
WARPS = 4
AHEAD = 128
"""Columns of a part's past that a program asks for while the kernel before still works."""
_UNLIMITED = 1 << 30


def parts_of(capacity: int, heads: int) -> int:
    """Into how many parts the past of each of `heads` (rows times key heads) is cut: a power of
    two, by what the cache can hold and by how many programs a card runs at once."""
    share = max(1, MOST_PROGRAMS // heads)
    most = 1 << (share.bit_length() - 1)
    return min(MOST_PARTS, most, power_of_two(-(-capacity // BLOCK_S)))


def attention_row(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    turn: tuple[Tensor, Tensor] | None,
    positions: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    window: int | None,
    counter: Tensor,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """z (B, H * D) of one new token a row; the cache gets its key and value.

    Args:
        q, k, v: (B, H * D) and twice (B, K * D), before the rotary turn; rows of k and v are
            equally far apart.
        turn: cos and sin (1|B, 1, 1, R) as `rope.spread` lays them out; None turns nothing.
        positions: (B, 1), each row's place of the new token, on the device; rows may share one.
        keys, values: the cache (B, K, S, D) with equal strides, the last of them 1.
        scale: of the scores. window: how many tokens are seen, the new one included; None all.
        counter: (B * K,) int32 zeros, left as zeros.
    """
    batch, heads, _, size = keys.shape
    group = q.shape[1] // (heads * size)
    padded, wide = max(16, power_of_two(group)), max(16, power_of_two(size))
    splits = parts_of(keys.shape[2], batch * heads)
    cos, sin = (q, q) if turn is None else turn
    out = torch.empty(batch, q.shape[1], device=q.device, dtype=out_dtype)
    shape = (batch * heads * splits, padded)
    top = torch.empty(shape, device=q.device, dtype=torch.float32)
    mass, answers = torch.empty_like(top), top.new_empty(*shape, wide)
    _kernels("attention_row").attention_row[(batch * heads, splits)](
        q,
        k,
        v,
        cos,
        sin,
        positions,
        keys,
        values,
        out,
        top,
        mass,
        answers,
        counter,
        positions.stride(0),
        q.stride(0),
        k.stride(0),
        cos.stride(0) if turn is not None and cos.shape[0] > 1 else 0,
        *keys.stride()[:3],
        scale,
        _UNLIMITED if window is None else window,
        K=heads,
        G=group,
        D=size,
        HALF=0 if turn is None else cos.shape[-1] // 2,
        GROUP=padded,
        WIDE=wide,
        BLOCK_S=WIDE_S if splits == 1 else BLOCK_S,
        SPLITS=splits,
        AHEAD=AHEAD,
        **started(WARPS),
        num_stages=WIDE_STAGES if splits == 1 else STAGES,
    )
    return out
