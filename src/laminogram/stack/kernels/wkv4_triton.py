"""RWKV-4's recurrence as one fused kernel each way, for training on CUDA.

The module imports without Triton; the kernels (`_wkv4_triton_kernels`) are imported when they are
first called.

Axes: B batch, T tokens, A attention width. State (B, 3, A): see `wkv4_naive`.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .wkv4_naive import wkv4_empty_state


@cache
def triton_missing() -> str | None:
    """Why the Triton kernels cannot be used here, as a sentence; None when they can."""
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return (
            f"the package `triton` cannot be imported ({error}); "
            "it comes with torch's CUDA builds for Linux."
        )
    return None


def _kernels() -> ModuleType:
    missing = triton_missing()
    if missing is not None:
        raise RuntimeError(
            f"wkv4_triton needs Triton, but {missing} Use `wkv4`, which needs only torch."
        )
    return importlib.import_module("._wkv4_triton_kernels", __package__)


def wkv4_triton(
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """RWKV-4's weighted sum over the past, with gradients for k, v, w and u.

    Args:
        k, v: keys and values (B, T, A) in float32, bfloat16 or float16; the sums are float32.
        w, u: log decay and bonus (A,), as in `wkv4_naive`.
        state: (B, 3, A), or None for the state before the first token.
        lengths: real tokens of each row (B,), left-aligned; the state returned is the one after
            them.
        out_dtype: dtype of y; a 16-bit one saves memory traffic.

    Returns:
        y (B, T, A) in `out_dtype` and the state (B, 3, A) in float32.

    Raises:
        RuntimeError: Triton is missing, or a gradient is asked for the state, given or returned:
        the kernel has none. TypeError: float64 input.
    """
    if k.dtype == torch.float64 or v.dtype == torch.float64:
        raise TypeError(
            "wkv4_triton computes in float32 and got float64 keys or values; "
            "`wkv4` computes in float64."
        )
    kernels = _kernels()
    if state is None:
        state = wkv4_empty_state(k.shape[0], k.shape[2], device=k.device, dtype=torch.float32)
    elif state.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            "wkv4_triton has no gradient for the state it is given. "
            "Detach the state, or use `wkv4`, which has one."
        )
    y, after = _WKV4.apply(kernels, k, v, w, u, state, lengths, out_dtype)
    return y, after


class _WKV4(torch.autograd.Function):
    """Saves its inputs and the state at every few tokens; the backward kernel replays what lies
    between.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernels: ModuleType,
        k: Tensor,
        v: Tensor,
        w: Tensor,
        u: Tensor,
        state: Tensor,
        lengths: Tensor | None,
        out_dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.kernels = kernels
        ctx.dtypes = (w.dtype, u.dtype)
        k, v = k.contiguous(), v.contiguous()
        w, u, state = (x.detach().float().contiguous() for x in (w, u, state))
        y, after, marks = kernels.forward(
            k, v, w, u, state, lengths, out_dtype, any(ctx.needs_input_grad)
        )
        ctx.save_for_backward(k, v, w, u, marks)
        return y, after

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if grad_state is not None:
            raise RuntimeError(
                "wkv4_triton has no gradient through the state it returns. "
                "Detach the state, or use `wkv4`, which has one."
            )
        if grad_y is None:
            return (None,) * 8
        k, v, w, u, marks = ctx.saved_tensors
        grads = ctx.kernels.backward(k, v, w, u, marks, grad_y.contiguous())
        grad_w, grad_u = (grad.to(dtype) for grad, dtype in zip(grads[2:], ctx.dtypes, strict=True))
        return None, grads[0], grads[1], grad_w, grad_u, None, None, None
