"""A recurrence with its state in sight: the explicit path behind the site `state`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from laminogram.stack.context import Context
from laminogram.stack.taps import Taps

Step = Callable[[slice, Tensor], tuple[Tensor, Tensor]]
"""From one token's place and the state before it (B, ...) to its answer and the state after it."""


def token_by_token(
    step: Step, tokens: int, state: Tensor, ctx: Context, taps: Taps
) -> tuple[Tensor, Tensor]:
    """Answers (B, T, ...) and the last state. An edit acts on what follows its token."""
    outs, states, kept = [], [], "state" in taps.reads
    for t in range(tokens):
        out, after = step(slice(t, t + 1), state)
        after = taps.edit_token("state", after[:, None], t)[:, 0]
        if ctx.lengths is not None:
            real = (t < ctx.lengths).view(-1, *[1] * (state.dim() - 1))
            after = torch.where(real, after, state)
        state = after
        outs.append(out)
        if kept:
            states.append(state)
    if kept:
        taps.keep("state", torch.stack(states, 1))
    return torch.cat(outs, 1), state
