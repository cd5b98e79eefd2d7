"""RWKV-7's recurrence on CUDA: chunks of tokens in Triton, forward and backward.

The module imports without Triton; the kernels (`_wkv7_triton_kernels`) are imported when they are
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

CHUNK = 32  # tokens: the fastest on an H200, forward and backward


def _kernels() -> ModuleType:
    missing = triton_missing()
    if missing is not None:
        raise RuntimeError(
            f"wkv7_triton needs Triton, but {missing} Use `wkv7`, which needs only torch."
        )
    return importlib.import_module("._wkv7_triton_kernels", __package__)


def wkv7_triton(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    lengths: Tensor | None = None,
    *,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """RWKV-7's generalised delta rule, with gradients for every argument but `lengths`.

    Args:
        r, k, v, a, b: (B, T, H, N) in float32, bfloat16 or float16; the sums are float32, their
            products TF32 (three of them, as exact as float32, where all inputs are float32).
        w: decay (B, T, H, N) in float32, above 0.27 (the model's are above 0.5452).
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
            "wkv7_triton computes in float32 and got float64; `wkv7` computes in float64."
        )
    if r.shape[-1] not in SIZES:
        raise ValueError(
            f"wkv7_triton is written for heads of {', '.join(map(str, SIZES))} and got "
            f"{r.shape[-1]}; `wkv7` takes any."
        )
    inputs = (r, w.float(), k, v, a, b)
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, state))
    o, after, _ = _forward(*inputs, state.float(), lengths, chunk, tracked)
    return o, after


# Operators rather than an autograd.Function: the compiler takes them into its graph for any length.


@torch.library.custom_op("laminogram::wkv7", mutates_args=())
def _forward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    chunk: int,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """o, the state after it, and with `save` the states before each chunk (else none of them)."""
    inputs = tuple(x.contiguous() for x in (r, w, k, v, a, b))
    if r.numel() == 0:
        return torch.empty_like(r, dtype=torch.float32), state.clone(), room_for_states(state, 0)
    o, after, before = _kernels().forward(
        inputs, state.contiguous(), lengths, chunk=chunk, precision=precision(inputs)
    )
    return o, after, before if save else room_for_states(state, 0)


@_forward.register_fake
def _(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    chunk: int,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return results_like(r, state, chunk, save)


@torch.library.custom_op("laminogram::wkv7_backward", mutates_args=())
def _backward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    before: Tensor,
    lengths: Tensor | None,
    grad_o: Tensor,
    grad_after: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of r, w, k, v, a, b and the state."""
    inputs = tuple(x.contiguous() for x in (r, w, k, v, a, b))
    grads: Any = (*(torch.empty_like(x) for x in inputs), grad_after.clone())
    if r.numel() == 0:
        return grads
    grads = _kernels().backward(
        inputs,
        lengths,
        before,
        grad_o.contiguous(),
        grad_after.contiguous(),
        chunk=chunk,
        precision=precision(inputs),
    )
    return grads


@_backward.register_fake
def _(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    before: Tensor,
    lengths: Tensor | None,
    grad_o: Tensor,
    grad_after: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    r, w, k, v, a, b = (x.new_empty(x.shape) for x in (r, w, k, v, a, b))
    return r, w, k, v, a, b, grad_after.new_empty(grad_after.shape)


register_gradients(_forward, _backward, 6)
