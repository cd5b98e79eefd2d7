"""What the operators around chunked kernels of a matrix state have in common (RWKV-5, 6 and 7).

Axes: B batch, T tokens, H heads, N head size. State (B, H, Nv, Nk).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SIZES = (16, 32, 64)
"""Head sizes that the kernels are written for."""


def precision(inputs: tuple[Tensor, ...]) -> str:
    """TF32 keeps more digits than 16-bit inputs have; float32 ones are split in three."""
    return "tf32x3" if all(x.dtype == torch.float32 for x in inputs) else "tf32"


def room_for_states(state: Tensor, chunks: int) -> Tensor:
    """Room for the states before each of so many chunks."""
    batch, heads, size, _ = state.shape
    return state.new_empty(batch, heads, chunks, size, size)


def results_like(r: Tensor, state: Tensor, chunk: int, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What a forward operator returns, without its numbers."""
    chunks = -(-r.shape[1] // chunk) if save else 0
    o = r.new_empty(r.shape, dtype=torch.float32)
    return o, state.new_empty(state.shape), room_for_states(state, chunks)


def register_gradients(forward: Any, backward: Callable[..., Any], count: int) -> None:
    """Join a forward operator (`count` inputs, state, lengths, chunk, save) to its backward one
    (inputs, states before the chunks, lengths, gradients of o and of the state, chunk)."""

    def remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:count], output[2], output[1], inputs[count + 1])
        ctx.chunk = inputs[count + 2]

    def gradients(
        ctx: Any, grad_o: Tensor | None, grad_after: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *inputs, before, after, lengths = ctx.saved_tensors
        if grad_o is None:
            grad_o = torch.zeros_like(inputs[0], dtype=torch.float32)
        if grad_after is None:
            grad_after = torch.zeros_like(after)
        grads = backward(*inputs, before, lengths, grad_o, grad_after, ctx.chunk)
        return (*grads, None, None, None)

    forward.register_autograd(gradients, setup_context=remember)
