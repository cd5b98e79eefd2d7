"""What the compiled kernel takes of an attention (`kernels/token/attention.py`), for `block_fused`.

Axes: C channels, H heads, K key heads, D head size.
"""

from __future__ import annotations

import importlib
import math
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch

from laminogram.stack import alibi
from laminogram.stack.cache import AttentionSlot, StepSlot
from laminogram.stack.kernels.matvec import kind_of
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.attention import Attention
from laminogram.stack.mixers.fused import Called, Entries, Weights, bias_of, kind_of_norm, scaled

HEAD_STEP = 16
"""What a head's size is to be a multiple of: the kernel's loads have so many numbers."""


@cache
def _kernel() -> ModuleType:
    return importlib.import_module("laminogram.stack.kernels.token.attention")


def takes(attn: Attention, memory: Any, dtype: torch.dtype) -> bool:
    """Whether the kernel takes this attention with this memory."""
    if type(memory) is not AttentionSlot or memory.k.dtype is not dtype:
        return False
    in_one_piece = memory.k.is_contiguous() and memory.v.is_contiguous()
    return in_one_piece and attn.config.head_dim % HEAD_STEP == 0


def memories(slot: StepSlot) -> tuple[Any, ...]:
    """The tensors that the kernel reads and writes."""
    return slot.attn.k, slot.attn.v


def products(attn: Attention) -> list[Linear]:
    """Its products in the kernel's order."""
    return [attn.q, attn.k, attn.v, attn.o]


def mixer(attn: Attention, memory: AttentionSlot, weights: Weights) -> Called:
    """What the kernel takes beside `weights`, which begin with the products."""
    kernel, config, heads = _kernel(), attn.config, memory.k.shape[1]
    biases = [bias_of(product) for product in products(attn)]
    normed = config.qk_norm is not None
    norms = [attn.q_norm, attn.k_norm] if normed else []
    slopes = alibi.slopes(config.num_attention_heads)
    values = {
        "KIND": kind_of(memory.k),
        "NORM": kind_of_norm(attn.q_norm) if normed else -1,
        "SIZE": attn.o.weight.shape[0],
        "WEIGHTS": weights,
        "TABLE": np.stack([row for norm in norms for row in scaled(norm)]) if normed else 0,
        "QKV_BIAS": np.concatenate(biases[:3]),
        "O_BIAS": biases[3],
        "NUMBERS": _scalars(attn),
        "KEYS": memory.k.data_ptr(),
        "VALUES": memory.v.data_ptr(),
        "KEY_HEADS": heads,
        "GROUP": config.num_attention_heads // heads,
        "HEAD_SIZE": config.head_dim,
        "CAPACITY": memory.k.shape[2],
        "ATTEND": kernel.ATTEND_HEAD,
        "TURN": attn.rope_index,
        "WINDOW": config.window or 0,
        "SLOPES": np.array(slopes, np.float32) if config.alibi else 0,
    }
    return Called(kernel.step.address, Entries(kernel, values))


def _scalars(attn: Attention) -> np.ndarray:
    """The numbers of an attention, in the kernel's order."""
    kernel, config = _kernel(), attn.config
    out = np.zeros(kernel.TRAINED + 1, np.float32)
    if config.qk_norm is not None:
        out[kernel.Q_EPS], out[kernel.K_EPS] = attn.q_norm.eps, attn.k_norm.eps
    out[kernel.SCALE] = attn.scale
    out[kernel.TRAINED] = 0 if config.log_n is None else math.log(config.log_n)
    return out
