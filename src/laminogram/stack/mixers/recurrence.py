"""A recurrence with its state in sight (the explicit path behind the site `state`), and when one
token may take the shortest path instead.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from laminogram.stack.cache import StateSlot, state_dtype
from laminogram.stack.context import Context
from laminogram.stack.taps import Taps

Step = Callable[[slice, Tensor], tuple[Tensor, Tensor]]
"""From one token's place and the state before it (B, ...) to its answer and the state after it."""


def token_by_token(
    step: Step, tokens: int, state: Tensor, ctx: Context, taps: Taps
) -> tuple[Tensor, Tensor]:
    """Answers (B, T, ...) and the last state. An edit acts on what follows its token."""
    outs, states = [], []
    for t in range(tokens):
        out, after = step(slice(t, t + 1), state)
        after = taps.edit_token("state", after[:, None], t)[:, 0]
        if ctx.lengths is not None:
            real = (t < ctx.lengths).view(-1, *[1] * (state.dim() - 1))
            after = torch.where(real, after, state)
        state = after
        outs.append(out)
        states.append(state)
    taps.keep("state", torch.stack(states, 1))
    return torch.cat(outs, 1), state


def one_row_in_place(h: Tensor, weight: Tensor, slot: StateSlot, ctx: Context, taps: Taps) -> bool:
    """Whether a mixer may read `h` (1, 1, C) as a vector and write over its own results.

    So it is where one row goes on by one token on a CPU, nothing is tapped, differentiated or
    compiled, and all is fp32 or all fp64. Products of small matrices then take little longer than
    reading them, and every operation beside them counts.
    """
    return (
        h.shape[0] == h.shape[1] == 1
        and not taps.names
        and ctx.lengths is None
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and h.device.type == "cpu"
        and isinstance(weight, Tensor)
        and h.dtype is weight.dtype is slot.shift.dtype is state_dtype(h.dtype)
        and h.is_contiguous()
    )
