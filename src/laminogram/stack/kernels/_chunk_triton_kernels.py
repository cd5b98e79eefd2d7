"""What the Triton kernels of RWKV-6 and RWKV-7 share: a program for a chunk of one head. Import
needs Triton.

Inside a program: L tokens of a chunk, N head size.
"""

# Triton kernels take tensors of pointers and blocks, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


# fmt: off
@triton.jit
def _dot(x, y, PRECISION: tl.constexpr):
    return tl.dot(x, y, input_precision=PRECISION)


@triton.jit
def _load(at, mask, other: tl.constexpr):
    return tl.load(at, mask=mask, other=other).to(tl.float32)


@triton.jit
def _store(at, x, mask):
    tl.store(at, x.to(at.dtype.element_ty), mask=mask)


@triton.jit
def _tokens(
    head, tokens, length_ptr, H, HAS_LENGTHS: tl.constexpr, N: tl.constexpr, L: tl.constexpr
):
    """Where a head of this program's chunk lies: offsets (L, N), which are there, which real."""
    chunk, row = tl.program_id(0), tl.program_id(2)
    t = chunk * L + tl.arange(0, L)[:, None]
    at = ((row.to(tl.int64) * tokens + t) * H + head) * N + tl.arange(0, N)[None, :]
    length = tokens
    if HAS_LENGTHS:
        length = tl.load(length_ptr + row).to(tl.int32)
    there = (t < tokens) & (tl.arange(0, N)[None, :] >= 0)
    return at, there, there & (t < length)
# fmt: on


class ChunkPlan:
    """Sizes of one call: B rows, T tokens in chunks of L, H heads of N."""

    def __init__(self, r: Tensor, chunk: int, precision: str) -> None:
        self.batch, self.tokens, self.heads, self.size = r.shape
        self.chunks = -(-self.tokens // chunk)
        self.grid: Any = (self.chunks, self.heads, self.batch)
        self.sizes = (self.tokens, self.chunks, self.heads)
        self.flags: Any = {"N": self.size, "PRECISION": precision}
        levels, warps = chunk.bit_length() - 1, 4 if chunk <= 32 else 8
        self.chunk: Any = {"L": chunk, "LEVELS": levels, "num_warps": warps}

    def squares(self, like: Tensor) -> Tensor:
        """Room for a matrix of every chunk, (B, H, n, N, N) in float32."""
        shape = (self.batch, self.heads, self.chunks, self.size, self.size)
        return torch.empty(shape, device=like.device, dtype=torch.float32)
