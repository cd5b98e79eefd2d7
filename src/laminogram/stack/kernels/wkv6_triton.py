"""RWKV-5's and RWKV-6's recurrence on CUDA: chunks of tokens in Triton, forward and backward.

The module imports without Triton; the kernels (`_wkv6_triton_kernels`) are imported when they are
first called.

Axes: B batch, T tokens, H heads, N head size. State (B, H, Nv, Nk).
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .chunk_operator import (
    SIZES,
    precision,
    register_gradients,
    results_like,
    room_for_states,
)
from .wkv4_triton import triton_missing

CHUNK = 32  # tokens


def _kernels() -> ModuleType:
    missing = triton_missing()
    if missing is not None:
        raise RuntimeError(
            f"wkv6_triton needs Triton, but {missing} Use `wkv6`, which needs only torch."
        )
    return importlib.import_module("._wkv6_triton_kernels", __package__)


def wkv6_triton(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    state: Tensor,
    lengths: Tensor | None = None,
    *,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """RWKV-5's and 6's recurrence, with gradients for every argument but `lengths`.

    Args:
        r, k, v: (B, T, H, N) in float32, bfloat16 or float16; the sums are float32, their products
            TF32 (three of them, as exact as float32, where all inputs are float32).
        w: decay in [0, 1], broadcast to (B, T, H, N); one for all tokens is not written out.
        u: bonus (H, N), or (H, 1) where a head has one.
        state: (B, H, Nv, Nk).
        lengths: real tokens of each row (B,), left-aligned.
        chunk: tokens of a chunk, a power of two from 16 to 64.

    Returns:
        o (B, T, H, Nv) and the state after each row's last real token, both float32.

    Raises:
        RuntimeError: Triton is missing. TypeError: float64 input. ValueError: another head size
        than `SIZES`.
    """
    if r.dtype == torch.float64:
        raise TypeError(
            "wkv6_triton computes in float32 and got float64; `wkv6` computes in float64."
        )
    if r.shape[-1] not in SIZES:
        raise ValueError(
            f"wkv6_triton is written for heads of {', '.join(map(str, SIZES))} and got "
            f"{r.shape[-1]}; `wkv6` takes any."
        )
    w = w.float().expand(*w.shape[:-1], k.shape[-1]).contiguous().expand(k.shape)
    inputs = (r, w, k, v, u.float().expand(k.shape[2:]))
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, state))
    o, after, _ = _forward(*inputs, state.float(), lengths, chunk, tracked)
    return o, after


def _laid(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The inputs as the kernels read them: contiguous, but for w, which may be the same for all
    tokens."""
    w = w if w.stride(-1) == 1 else w.contiguous()
    return r.contiguous(), w, k.contiguous(), v.contiguous(), u.contiguous()


# Operators rather than an autograd.Function: the compiler takes them into its graph for any length.


@torch.library.custom_op("laminogram::wkv6", mutates_args=())
def _forward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    chunk: int,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """o, the state after it, and with `save` the states before each chunk (else none of them)."""
    if r.numel() == 0:
        o = r.new_empty(r.shape, dtype=torch.float32)
        return o, state.clone(), room_for_states(state, 0)
    inputs = _laid(r, w, k, v, u)
    o, after, before = _kernels().forward(
        inputs, state.contiguous(), lengths, chunk=chunk, precision=precision((r, k, v))
    )
    return o, after, before if save else room_for_states(state, 0)


@_forward.register_fake
def _(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    chunk: int,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return results_like(r, state, chunk, save)


@torch.library.custom_op("laminogram::wkv6_backward", mutates_args=())
def _backward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    before: Tensor,
    lengths: Tensor | None,
    grad_o: Tensor,
    grad_after: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of r, w, k, v, u and the state."""
    if r.numel() == 0:
        grads: Any = (x.new_zeros(x.shape) for x in (r, w, k, v, u))
        return (*grads, grad_after.clone())
    grads = _kernels().backward(
        _laid(r, w, k, v, u),
        lengths,
        before,
        grad_o.contiguous(),
        grad_after.contiguous(),
        chunk=chunk,
        precision=precision((r, k, v)),
    )
    return grads


@_backward.register_fake
def _(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    before: Tensor,
    lengths: Tensor | None,
    grad_o: Tensor,
    grad_after: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    r, w, k, v, u = (x.new_empty(x.shape) for x in (r, w, k, v, u))
    return r, w, k, v, u, grad_after.new_empty(grad_after.shape)


register_gradients(_forward, _backward, 5)
