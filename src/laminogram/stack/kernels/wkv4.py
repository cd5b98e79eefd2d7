"""RWKV-4's recurrence without a loop over tokens, on any device.

One token takes a short direct path (`wkv4_decode`); a sequence takes the two-level scan of
`wkv4_scan`, in its differentiable form or, on a CPU without gradients, in its buffered form
(`wkv4_buffered`), which keeps its working set inside the cache; a long one there is compiled, where
numba is there (`wkv4_compiled`).

Axes: B batch, T tokens, A attention width. State (B, 3, A): see `wkv4_naive`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .wkv4_buffered import wkv4_buffered
from .wkv4_compiled import compiled, wkv4_compiled
from .wkv4_decode import wkv4_single
from .wkv4_naive import compute_dtype
from .wkv4_scan import wkv4_scan


def wkv4(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """RWKV-4's weighted sum over the past; arguments, result and dtypes as in `wkv4_naive`.

    Differentiable by autograd. No host synchronisation and no branch on values, so it may be
    compiled, or captured in a CUDA graph.
    """
    dtype, tracked = compute_dtype(k), _is_tracked(k, v, w, u, state)
    if k.shape[1] > 1 and not tracked and compiled(k, v):
        return wkv4_compiled(k, v, w, u, state, lengths)
    k, v, w, u, state = k.to(dtype), v.to(dtype), w.to(dtype), u.to(dtype), state.to(dtype)
    tokens = k.shape[1]
    if tokens == 1:
        return wkv4_single(k, v, w, u, state, lengths)
    if k.numel() == 0:
        return torch.zeros_like(k), state
    # writing into views of a buffer is what neither autograd nor a compiler follows
    plain = tracked or k.device.type != "cpu" or torch.compiler.is_compiling()
    run = wkv4_scan if plain else wkv4_buffered
    return run(k, v, w, u, state, lengths)


def _is_tracked(*given: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in given)
