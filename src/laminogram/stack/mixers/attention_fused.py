"""What the compiled kernel takes (`kernels/token/attention.py`) of a layer of attention and a
feed-forward network or mixture of experts (`feed_forward_fused`).

Large layers only, and only where numba is there; everything else goes the usual way.

Axes: C channels, H heads, K key heads, D head size.
"""

from __future__ import annotations

import importlib
import math
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from laminogram.stack import alibi
from laminogram.stack.cache import AttentionSlot, StepSlot
from laminogram.stack.config import AttentionConfig, LayerConfig
from laminogram.stack.kernels.matvec import kind_of
from laminogram.stack.linear import Linear
from laminogram.stack.mixers import feed_forward_fused
from laminogram.stack.mixers.attention import Attention
from laminogram.stack.mixers.feed_forward_fused import Network, dense_products
from laminogram.stack.mixers.fused import (
    STREAMS,
    FusedDecoder,
    Value,
    Weights,
    bias_of,
    kind_of_norm,
    scaled,
    stored,
)

if TYPE_CHECKING:
    from laminogram.stack.layer import Layer
    from laminogram.stack.norms import Norm

_BLOCKS = {"pre": "PRE", "parallel": "PARALLEL", "sandwich": "SANDWICH"}
"""What the kernel calls a block equation."""
HEAD_STEP = 16
"""What a head's size is to be a multiple of: the kernel's loads have so many numbers."""


@cache
def _kernel() -> ModuleType:
    return importlib.import_module("laminogram.stack.kernels.token.attention")


def has_fused_step(config: LayerConfig) -> bool:
    """Whether the kernel knows all that layers of this configuration do."""
    attn = config.attn
    known = config.block in _BLOCKS and feed_forward_fused.is_known(config.ffn)
    return known and isinstance(attn, AttentionConfig) and attn.causal


def row_decoder(layer: Layer, slot: StepSlot, dtype: torch.dtype) -> FusedDecoder | None:
    """The decoder that the slot keeps, or a new one where that no longer serves; None where the
    kernel does not take the layer, or not in this dtype of the residual stream."""
    kept = slot.decoder
    if isinstance(kept, FusedDecoder) and kept.serves(layer, slot, dtype):
        return kept
    made = _new_decoder(layer, slot, dtype)
    if made is not None:
        slot.decoder = made
    return made


def _new_decoder(layer: Layer, slot: StepSlot, dtype: torch.dtype) -> FusedDecoder | None:
    memory = slot.attn
    if type(memory) is not AttentionSlot or memory.k.dtype is not dtype or dtype not in STREAMS:
        return None
    after = dense_products(layer.ffn)
    if type(layer.attn) is not Attention or after is None:
        return None
    if not (memory.k.is_contiguous() and memory.v.is_contiguous()):
        return None
    attn = layer.attn
    if attn.config.head_dim % HEAD_STEP:
        return None
    products = [attn.q, attn.k, attn.v, attn.o, *after]
    if any(type(product) is not Linear for product in products):
        return None
    found = stored(products)
    if found is None:
        return None
    weights = Weights(products, found, slot.short)
    network = feed_forward_fused.network(layer.ffn, weights, place=4)
    if network is None:
        return None
    values = _values(layer, memory, network)
    return FusedDecoder(layer, slot, dtype, _memories, weights, _kernel(), values)


def _values(layer: Layer, memory: AttentionSlot, network: Network) -> dict[str, Value]:
    """What the kernel takes of a layer beside its weights."""
    attn: Any = layer.attn
    kernel, config, heads = _kernel(), attn.config, memory.k.shape[1]
    biases = [bias_of(product) for product in (attn.q, attn.k, attn.v, attn.o)]
    between = _norms_between(layer)
    rows = [*scaled(layer.attn_norm), *scaled(layer.ffn_norm), biases[3]]
    rows += [row for norm in between for row in scaled(norm)]
    normed = config.qk_norm is not None
    slopes = alibi.slopes(config.num_attention_heads)
    return {
        "KIND": kind_of(memory.k),
        "BLOCK": getattr(kernel, _BLOCKS[layer.config.block]),
        "NORM": kind_of_norm(layer.attn_norm),
        "HEAD_NORM": kind_of_norm(attn.q_norm) if normed else -1,
        "SIZE": layer.attn_norm.size,
        "TABLE": np.stack(rows),
        "HEAD_TABLE": np.stack([*scaled(attn.q_norm), *scaled(attn.k_norm)]) if normed else 0,
        "QKV_BIAS": np.concatenate(biases[:3]),
        "NUMBERS": _scalars(layer, between),
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
        "NETWORK": network.function,
        "NETWORK_TABLE": network.entries,
    }


def _norms_between(layer: Layer) -> list[Norm]:
    """The norms between mixers and the residual."""
    twice = layer.config.block == "sandwich"
    return [layer.attn_post_norm, layer.ffn_post_norm] if twice else []


def _scalars(layer: Layer, between: list[Norm]) -> np.ndarray:
    """The numbers of a layer, in the kernel's order."""
    attn: Any = layer.attn
    kernel, config = _kernel(), attn.config
    out = np.zeros(kernel.TRAINED + 1, np.float32)
    out[kernel.ATTN_EPS], out[kernel.FFN_EPS] = layer.attn_norm.eps, layer.ffn_norm.eps
    if config.qk_norm is not None:
        out[kernel.Q_EPS], out[kernel.K_EPS] = attn.q_norm.eps, attn.k_norm.eps
    for place, norm in enumerate(between):
        out[kernel.ATTN_POST_EPS + place] = norm.eps
    out[kernel.SCALE] = attn.scale
    out[kernel.TRAINED] = 0 if config.log_n is None else math.log(config.log_n)
    return out


def _memories(slot: StepSlot) -> tuple[Any, ...]:
    return slot.attn.k, slot.attn.v
