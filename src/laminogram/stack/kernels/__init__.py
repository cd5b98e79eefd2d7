"""Recurrences of the RWKV mixers as pure functions on tensors: naive references and the fast paths
beside them.

`wkv4`, `wkv6` (also for RWKV-5) and `wkv7` are what a mixer calls:

| call | runs |
| --- | --- |
| `wkv4`, one token | a direct step of few operations |
| `wkv4`, training on CUDA from an empty state, Triton present | one fused Triton kernel each way |
| `wkv4`, a CPU without gradients | the two-level scan in buffers that fit the cache |
| `wkv4`, anything else (a given state, no Triton) | the two-level scan, differentiable |
| `wkv6`, one token | a direct step |
| `wkv6`, a sequence | chunks of 32 tokens (64 on a GPU) as matrix products |
| `wkv7`, one token | a direct step |
| `wkv7`, a sequence | chunks of 16 tokens (64 on a GPU) as matrix products |

Axes: B batch, T tokens, A attention width, H heads, N head size.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .wkv4 import wkv4 as _wkv4_scan
from .wkv4_naive import compute_dtype, wkv4_empty_state, wkv4_naive, wkv4_states
from .wkv4_pattern import wkv4_pattern, wkv4_pattern_channels
from .wkv4_triton import triton_missing, wkv4_triton
from .wkv6 import wkv6, wkv6_pattern
from .wkv6_naive import wkv6_naive
from .wkv7 import wkv7, wkv7_pattern
from .wkv7_naive import wkv7_naive, wkv7_states

__all__ = [
    "compute_dtype",
    "wkv4",
    "wkv4_empty_state",
    "wkv4_naive",
    "wkv4_pattern",
    "wkv4_pattern_channels",
    "wkv4_states",
    "wkv4_triton",
    "wkv6",
    "wkv6_naive",
    "wkv6_pattern",
    "wkv7",
    "wkv7_naive",
    "wkv7_pattern",
    "wkv7_states",
]


def wkv4(
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """RWKV-4's weighted sum over the past: y (B, T, A) and the state after it (B, 3, A).

    Arguments and dtypes as in `wkv4_naive`, but `state` None means the state before the first
    token. The Triton kernel, which has no gradient for states, is used only where none is given;
    see the table above for the rest.
    """
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (k, v, w, u))
    if state is None:
        if k.is_cuda and tracked and k.shape[1] > 1 and k.dtype != torch.float64 and _triton_here():
            return wkv4_triton(k, v, w, u, lengths=lengths)
        state = wkv4_empty_state(k.shape[0], k.shape[2], device=k.device, dtype=compute_dtype(k))
    return _wkv4_scan(k, v, w, u, state, lengths)


def _triton_here() -> bool:
    missing = triton_missing()
    if missing is not None:
        warnings.warn(f"RWKV-4 trains with the slower scan in plain torch: {missing}", stacklevel=3)
    return missing is None
