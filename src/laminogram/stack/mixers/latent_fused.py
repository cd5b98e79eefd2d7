"""What the compiled kernel takes of a latent attention (`kernels/token/latent.py`), for
`block_fused`. The weight that forms keys and values is read as it is, head by head.

Axes: C channels, H heads, Dn and Dv own channels of a head's keys and values, R rank of the latent.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laminogram.stack.cache import LatentSlot, StepSlot
from laminogram.stack.kernels.matvec import dtype_kind, fits, fits_by_inputs, kind_of
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.attention_fused import HEAD_STEP
from laminogram.stack.mixers.fused import Called, Entries, Weights, bias_of, kind_of_norm, scaled
from laminogram.stack.mixers.latent import LatentAttention


@cache
def _kernel() -> ModuleType:
    return importlib.import_module("laminogram.stack.kernels.token.latent")


def takes(attn: LatentAttention, memory: Any, dtype: torch.dtype) -> bool:
    """Whether the kernel takes this attention with this memory, which holds latents alone."""
    if type(memory) is not LatentSlot or memory.k is not None or memory.latent.dtype is not dtype:
        return False
    config = attn.config
    sizes = config.kv_lora_rank, config.latent_size
    return memory.latent.is_contiguous() and not any(size % HEAD_STEP for size in sizes)


def memories(slot: StepSlot) -> tuple[Any, ...]:
    """The tensors that the kernel reads and writes, and that there are no others."""
    return slot.attn.latent, slot.attn.k


def products(attn: LatentAttention) -> list[Linear]:
    """Its products in the kernel's order, without the one that is taken apart."""
    queries = [attn.q] if attn.config.q_lora_rank is None else [attn.q_a, attn.q_b]
    return [attn.kv_a, *queries, attn.o]


def mixer(attn: LatentAttention, memory: LatentSlot, weights: Weights) -> Called | None:
    """What the kernel takes beside `weights`, which begin with the products; None where it does not
    take the weight that forms keys and values."""
    parts = _parts(attn)
    if parts is None:
        return None
    kernel, config = _kernel(), attn.config
    low = config.q_lora_rank is not None
    values = {
        "KIND": dtype_kind(memory.latent.dtype),
        "NORM": kind_of_norm(attn.kv_a_norm),
        "SIZE": attn.o.weight.shape[0],
        "PARTS": len(products(attn)),
        "WEIGHTS": weights,
        "ABSORB": parts[0],
        "EXPAND": parts[1],
        "NUMBERS": _scalars(attn),
        "KV_TABLE": np.stack(scaled(attn.kv_a_norm)),
        "Q_TABLE": np.stack(scaled(attn.q_a_norm)) if low else 0,
        "KV_BIAS": bias_of(attn.kv_a),
        "Q_BIAS": bias_of(attn.q_a) if low else 0,
        "O_BIAS": bias_of(attn.o),
        "LATENTS": memory.latent.data_ptr(),
        "HEADS": config.num_attention_heads,
        "OWN": config.qk_nope_head_dim,
        "TURNED": config.qk_rope_head_dim,
        "RANK": config.kv_lora_rank,
        "ATTEND": kernel.ATTEND_HEAD,
        "TURN": attn.rope_index,
    }
    return Called(kernel.step.address, Entries(kernel, values))


def _parts(attn: LatentAttention) -> tuple[np.ndarray, np.ndarray] | None:
    """Two tables (H, 5) of the weight that forms keys and values: the rows of each head's keys the
    other way round, and those of its values."""
    weight, own = attn.kv_b.weight, attn.config.qk_nope_head_dim
    if type(attn.kv_b) is not Linear or not isinstance(weight, Tensor):
        return None
    heads = weight.detach().unflatten(0, (attn.config.num_attention_heads, -1))
    keys, values = [head[:own].t() for head in heads], [head[own:] for head in heads]
    if not all(fits_by_inputs(x, least=0) for x in keys):
        return None
    if not all(fits(x, least=0) for x in values):
        return None
    return _table(keys), _table(values)


def _table(weights: list[Tensor]) -> np.ndarray:
    return np.array([(kind_of(x), x.data_ptr(), 0, *x.shape) for x in weights], np.int64)


def _scalars(attn: LatentAttention) -> np.ndarray:
    """The numbers of an attention, in the kernel's order."""
    kernel = _kernel()
    out = np.zeros(kernel.SCALE + 1, np.float32)
    out[kernel.KV_EPS], out[kernel.SCALE] = attn.kv_a_norm.eps, attn.scale
    if attn.config.q_lora_rank is not None:
        out[kernel.Q_EPS] = attn.q_a_norm.eps
    return out
