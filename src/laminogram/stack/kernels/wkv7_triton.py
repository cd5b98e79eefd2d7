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

from .wkv4_triton import triton_missing

SIZES = (16, 32, 64)
"""Head sizes that the kernels are written for."""

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


def _precision(inputs: tuple[Tensor, ...]) -> str:
    """TF32 keeps more digits than 16-bit inputs have; float32 ones are split in three."""
    return "tf32x3" if all(x.dtype == torch.float32 for x in inputs) else "tf32"


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
        return torch.empty_like(r, dtype=torch.float32), state.clone(), _room_for_states(state, 0)
    o, after, before = _kernels().forward(
        inputs, state.contiguous(), lengths, chunk=chunk, precision=_precision(inputs)
    )
    return o, after, before if save else _room_for_states(state, 0)


def _room_for_states(state: Tensor, chunks: int) -> Tensor:
    batch, heads, size, _ = state.shape
    return state.new_empty(batch, heads, chunks, size, size)


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
    chunks = -(-r.shape[1] // chunk) if save else 0
    o = r.new_empty(r.shape, dtype=torch.float32)
    return o, state.new_empty(state.shape), _room_for_states(state, chunks)


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
        precision=_precision(inputs),
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


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6], output[2], output[1], inputs[7])
    ctx.chunk = inputs[8]


def _gradients(
    ctx: Any, grad_o: Tensor | None, grad_after: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    *inputs, before, after, lengths = ctx.saved_tensors
    if grad_o is None:
        grad_o = torch.zeros_like(inputs[0], dtype=torch.float32)
    if grad_after is None:
        grad_after = torch.zeros_like(after)
    grads = _backward(*inputs, before, lengths, grad_o, grad_after, ctx.chunk)
    return (*grads, None, None, None)


_forward.register_autograd(_gradients, setup_context=_remember)
