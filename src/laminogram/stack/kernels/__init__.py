"""Recurrences of the RWKV mixers as pure functions on tensors: naive references and the fast paths
beside them.

`wkv4`, `wkv6` (also for RWKV-5) and `wkv7` are what a mixer calls:

| call | runs |
| --- | --- |
| `wkv4`, one token | a direct step of few operations |
| `wkv4`, a sequence on CUDA, Triton present, no gradient for a state | chunks in Triton |
| `wkv4`, a long text on a CPU without gradients, numba present | token after token, compiled |
| `wkv4`, a CPU without gradients | the two-level scan in buffers that fit the cache |
| `wkv4`, anything else | the two-level scan, differentiable |
| `wkv6`, one token | a direct step |
| `wkv6`, a sequence on CUDA, Triton present, heads of 16, 32 or 64 | chunks of 32 in Triton |
| `wkv6`, another sequence | chunks of 32 tokens (64 on a GPU) as matrix products |
| `wkv7`, one token | a direct step |
| `wkv7`, a sequence on CUDA, Triton present, heads of 16, 32 or 64 | chunks of 32 in Triton |
| `wkv7`, another sequence | chunks of 16 tokens (64 on a GPU) as matrix products |

The Triton kernels run forward and backward. On CUDA the path in plain torch warns once, and says
what was missing (`kernel_missing`).

Axes: B batch, T tokens, A attention width, H heads, N head size.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .chunk_operator import SIZES as _SIZES
from .wkv4 import wkv4 as _wkv4_scan
from .wkv4_naive import compute_dtype, wkv4_empty_state, wkv4_naive, wkv4_states
from .wkv4_pattern import wkv4_pattern, wkv4_pattern_channels
from .wkv4_triton import triton_missing, wkv4_triton
from .wkv6 import wkv6 as _wkv6_chunks
from .wkv6 import wkv6_pattern
from .wkv6_naive import wkv6_naive
from .wkv6_triton import wkv6_triton
from .wkv7 import wkv7 as _wkv7_chunks
from .wkv7 import wkv7_pattern
from .wkv7_naive import wkv7_naive, wkv7_states
from .wkv7_triton import wkv7_triton

__all__ = [
    "compute_dtype",
    "kernel_missing",
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
    "wkv6_triton",
    "wkv7",
    "wkv7_naive",
    "wkv7_pattern",
    "wkv7_states",
    "wkv7_triton",
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
    token. The Triton kernels have no gradient for states, and are not used where one is wanted.
    """
    if _fused(k, kernel_missing()):
        wanted = state is not None and state.requires_grad and torch.is_grad_enabled()
        if not wanted:
            return wkv4_triton(k, v, w, u, state, lengths)
    if state is None:
        state = wkv4_empty_state(k.shape[0], k.shape[2], device=k.device, dtype=compute_dtype(k))
    return _wkv4_scan(k, v, w, u, state, lengths)


def wkv6(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    state: Tensor,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """RWKV-5's and 6's recurrence; arguments, result and dtypes as in `wkv6_naive`."""
    run = wkv6_triton if _fused(r, kernel_missing(r.shape[-1])) else _wkv6_chunks
    return run(r, w, k, v, u, state, lengths)


def wkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """RWKV-7's generalised delta rule; arguments, result and dtypes as in `wkv7_naive`."""
    run = wkv7_triton if _fused(r, kernel_missing(r.shape[-1])) else _wkv7_chunks
    return run(r, w, k, v, a, b, state, lengths)


def kernel_missing(head_size: int | None = None) -> str | None:
    """Why sequences on CUDA cannot take the Triton kernels, as a sentence; None when they can.

    Those of RWKV-5 to 7 are written for some head sizes; RWKV-4 has no heads.
    """
    why = triton_missing()
    if why is None and head_size is not None and head_size not in _SIZES:
        why = f"the kernels are written for heads of {', '.join(map(str, _SIZES))}."
    return why


def _fused(x: Tensor, missing: str | None) -> bool:
    """Whether a sequence (B, T, ...) takes the Triton kernels.

    Warns once where only they are missing: then it is slower for no good reason.
    """
    if not x.is_cuda or x.shape[1] <= 1 or x.dtype == torch.float64:
        return False
    if missing is not None and not torch.compiler.is_compiling():  # which no warning can leave
        warnings.warn(f"RWKV takes the slower recurrence in plain torch: {missing}", stacklevel=3)
    return missing is None
