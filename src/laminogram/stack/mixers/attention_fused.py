"""What the compiled kernel takes (`kernels/_attention_numba.py`) of a pre-norm layer of attention
and a plain or gated feed-forward network.

Large layers only, and only where numba is there; everything else goes the usual way.

Axes: C channels, H heads, K key heads, D head size, F ffn width.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from laminogram.stack.cache import AttentionSlot, StepSlot
from laminogram.stack.config import AttentionConfig, LayerConfig, MLPConfig
from laminogram.stack.kernels.matvec import kind_of
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.attention import Attention
from laminogram.stack.mixers.fused import (
    STREAMS,
    FusedDecoder,
    Weights,
    kind_of_norm,
    scaled,
    stored,
    vector,
)
from laminogram.stack.mixers.mlp import MLP

if TYPE_CHECKING:
    from laminogram.stack.layer import Layer

_ACTIVATIONS = {
    "silu": "SILU",
    "swish": "SILU",
    "gelu": "GELU",
    "gelu_fast": "GELU_TANH",
    "gelu_new": "GELU_TANH",
    "gelu_pytorch_tanh": "GELU_TANH",
    "relu": "RELU",
    "relu2": "RELU2",
}
"""What the kernel calls an activation."""


HEAD_STEP = 16
"""What a head's size is to be a multiple of: the kernel's loads have so many numbers."""


@cache
def _kernel() -> ModuleType:
    return importlib.import_module("laminogram.stack.kernels._attention_numba")


def has_fused_step(config: LayerConfig) -> bool:
    """Whether the kernel knows all that layers of this configuration do."""
    attn, ffn = config.attn, config.ffn
    return (
        config.block == "pre"
        and isinstance(attn, AttentionConfig)
        and isinstance(ffn, MLPConfig)
        and ffn.activation in _ACTIVATIONS
        and attn.causal
        and not attn.alibi
        and attn.log_n is None
        and attn.qk_norm is None
    )


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
    if type(layer.attn) is not Attention or type(layer.ffn) is not MLP:
        return None
    if not (memory.k.is_contiguous() and memory.v.is_contiguous()):
        return None
    attn, ffn = layer.attn, layer.ffn
    if attn.config.head_dim % HEAD_STEP:
        return None
    products = [attn.q, attn.k, attn.v, attn.o, ffn.up, ffn.down]
    if ffn.config.gated:
        products.insert(4, ffn.gate)
    if any(type(product) is not Linear for product in products):
        return None
    found = stored(products)
    if found is None:
        return None
    weights = Weights(products, found, slot.short)
    entries = _entries(layer, memory, [_bias(product) for product in products])
    return FusedDecoder(layer, slot, dtype, _memories, weights, _kernel(), entries)


def _entries(
    layer: Layer, memory: AttentionSlot, biases: list[np.ndarray]
) -> dict[str, int | np.ndarray]:
    """What the kernel takes of a layer beside its weights; biases: of the products in their
    order."""
    attn: Any = layer.attn
    ffn: Any = layer.ffn
    kernel, norms = _kernel(), (layer.attn_norm, layer.ffn_norm)
    rows = [row for norm in norms for row in scaled(norm)]
    numbers = [float(norms[0].eps), float(norms[1].eps), float(attn.scale)]
    return {
        "KIND": kind_of(memory.k),
        "NORM": kind_of_norm(norms[0]),
        "ACTIVATION": getattr(kernel, _ACTIVATIONS[ffn.config.activation]),
        "SIZE": norms[0].size,
        "PARTS": len(biases),
        "TABLE": np.stack([*rows, biases[3], biases[-1]]),
        "QKV_BIAS": np.concatenate(biases[:3]),
        "FFN_BIASES": np.concatenate(biases[4:-1]),
        "NUMBERS": np.array(numbers, np.float32),
        "KEYS": memory.k.data_ptr(),
        "VALUES": memory.v.data_ptr(),
        "KEY_HEADS": memory.k.shape[1],
        "GROUP": attn.config.num_attention_heads // memory.k.shape[1],
        "HEAD_SIZE": attn.config.head_dim,
        "CAPACITY": memory.k.shape[2],
        "ATTEND": kernel.ATTEND_HEAD,
        "TURN": attn.rope_index,
        "WINDOW": attn.config.window or 0,
    }


def _memories(slot: StepSlot) -> tuple[Any, ...]:
    return slot.attn.k, slot.attn.v


def _bias(product: Linear) -> np.ndarray:
    bias, outputs = product.bias, product.weight.shape[0]
    return np.zeros(outputs, np.float32) if bias is None else vector(bias)
