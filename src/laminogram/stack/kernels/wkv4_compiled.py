"""RWKV-4's recurrence over a text on a CPU, compiled, where numba is there: token after token in
the first cache, on the threads that torch keeps. A scan makes some twenty passes instead.

Axes: B batch, T tokens, A attention width. State (B, 3, A): see `wkv4_naive`.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from .crew import numba_missing
from .matvec import dtype_kind
from .team import together

LEAST_ENTRIES = 1 << 18
"""Numbers of a text's keys below which importing numba is not worth it."""


@cache
def _kernel() -> ModuleType:
    return importlib.import_module("._wkv4_numba", __package__)


def compiled(k: Tensor, v: Tensor) -> bool:
    """Whether the kernel takes these keys and values (B, T, A); that nothing is differentiated is
    the caller's to say."""
    return (
        k.is_cpu
        and k.numel() >= LEAST_ENTRIES
        and k.dtype is v.dtype
        and k.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and numba_missing() is None
    )


def wkv4_compiled(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `wkv4_naive`; y of a pad is zero."""
    (batch, tokens, width), kernel = k.shape, _kernel()
    k, v, past = k.contiguous(), v.contiguous(), torch.stack((w, u)).float()
    after = state.float().clone(memory_format=torch.contiguous_format)
    real = torch.full((batch,), tokens) if lengths is None else lengths.to(torch.long)
    y = torch.empty(batch, tokens, width)
    job, shares = np.zeros(kernel.JOB, np.int64), batch * -(-width // kernel.CHANNELS)
    job[kernel.LEFT], job[kernel.KIND] = shares, dtype_kind(k.dtype)
    for place, x in {
        "KEYS": k, "VALUES": v, "PAST": past, "STATE": after, "LENGTHS": real, "ANSWERS": y
    }.items():  # fmt: skip
        job[getattr(kernel, place)] = x.data_ptr()
    job[kernel.ROWS : kernel.WIDTH + 1] = batch, tokens, width
    threads = min(torch.get_num_threads(), shares)
    together(kernel.take_shares.address, job.ctypes.data, threads)
    return y, after
