"""RWKV-4's recurrence as fused kernels on CUDA, forward and backward.

The module imports without Triton; the kernels (`_wkv4_triton_kernels`) are imported when they are
first called.

Axes: B batch, T tokens, A attention width. State (B, 3, A): see `wkv4_naive`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

GROUP = 4  # tokens between two marks; the kernels are written for it


def _find_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "the package `triton` is not installed; it comes with torch's CUDA builds for Linux."
    return None


_MISSING = _find_triton()  # found out once, on import, so that the compiler need not trace it


def triton_missing() -> str | None:
    """Why the Triton kernels cannot be used here, as a sentence; None when they can."""
    return _MISSING


@cache
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
    if state is not None:
        if state.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "wkv4_triton has no gradient for the state it is given. Detach the state, "
                "or use `wkv4`, which has one."
            )
        state = state.detach().float()
    w, u = w.float(), u.float()
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (k, v, w, u))
    if torch.compiler.is_compiling():
        y, after, _ = _forward(k, v, w, u, state, lengths, out_dtype, tracked)
    else:
        y, after = _Direct.apply(k, v, w, u, state, lengths, out_dtype, tracked)
    return y, after


# Operators rather than an autograd.Function: the compiler takes them into its graph for any length.


def _run(
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
    out_dtype: torch.dtype,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the state after it, and with `save` the state at every few tokens (the marks)."""
    k, v, w, u = (x.contiguous() for x in (k, v, w, u))
    state = None if state is None else state.contiguous()
    lengths = None if lengths is None else lengths.contiguous()
    results: tuple[Tensor, Tensor, Tensor] = _kernels().forward(
        k, v, w, u, state, lengths, out_dtype, save
    )
    return results


_forward = torch.library.custom_op("laminogram::wkv4", _run, mutates_args=())


@_forward.register_fake
def _(
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
    out_dtype: torch.dtype,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, width = k.shape
    after = w.new_empty(batch, 3, width)
    marks = w.new_empty(batch, -(-tokens // GROUP) if save else 0, 3, width)
    return k.new_empty(k.shape, dtype=out_dtype), after, marks


def _run_back(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, marks: Tensor, grad_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of k and v, and of w and u together (2, A); the marks are replayed."""
    k, v, w, u, grad_y = (x.contiguous() for x in (k, v, w, u, grad_y))
    grads: tuple[Tensor, Tensor, Tensor] = _kernels().backward(k, v, w, u, marks, grad_y)
    return grads


_backward = torch.library.custom_op("laminogram::wkv4_backward", _run_back, mutates_args=())


@_backward.register_fake
def _(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, marks: Tensor, grad_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return k.new_empty(k.shape), v.new_empty(v.shape), w.new_empty(2, len(w))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:4], output[2])


def _gradients(
    ctx: Any,
    grad_y: Tensor | None,
    grad_state: Tensor | None,
    _: Tensor | None,
    back: Callable[..., tuple[Tensor, ...]] = _backward,
) -> tuple[Tensor | None, ...]:
    if grad_state is not None:
        raise RuntimeError(
            "wkv4_triton has no gradient through the state it returns. Detach the "
            "state, or use `wkv4`."
        )
    if grad_y is None:
        return (None,) * 8
    grad_k, grad_v, of_both = back(*ctx.saved_tensors, grad_y)
    return (grad_k, grad_v, *of_both.unbind(), None, None, None, None)


_forward.register_autograd(_gradients, setup_context=_remember)


class _Direct(torch.autograd.Function):
    """The same without a compiler, to whom alone an operator is worth what calling it costs."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = _run(*inputs)
        _remember(ctx, inputs, output)
        return output[:2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None) -> Any:
        return _gradients(ctx, grad_y, grad_state, None, _run_back)
