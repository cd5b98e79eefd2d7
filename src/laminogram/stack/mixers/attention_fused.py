"""A pre-norm layer of attention and a plain or gated feed-forward network, for one token of one row
in one call of a compiled kernel (`kernels/_attention_numba.py`).

Large layers only, and only where numba is there; everything else goes the usual way.

Axes: C channels, H heads, K key heads, D head size, F ffn width.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from laminogram.stack.cache import AttentionSlot, StepSlot
from laminogram.stack.config import AttentionConfig, LayerConfig, MLPConfig
from laminogram.stack.context import Context
from laminogram.stack.hooks import has_hooked_mixer
from laminogram.stack.kernels.crew import crew
from laminogram.stack.kernels.matvec import kind_of
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.attention import Attention
from laminogram.stack.mixers.fused import STREAMS, Watch, Weights, stored, vector
from laminogram.stack.mixers.mlp import MLP
from laminogram.stack.norms import Norm

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


def decoded(layer: Layer, x: Tensor, ctx: Context, slot: StepSlot) -> Tensor | None:
    """`Layer.forward` of one token of one row, `x (1, 1, C)`, by the decoder that the slot keeps or
    a new one where that no longer serves; None where the kernel does not take the layer."""
    if ctx.start is None or has_hooked_mixer(layer):
        return None
    decoder = slot.decoder
    if not isinstance(decoder, AttentionDecoder) or not decoder.serves(layer, slot, x.dtype):
        decoder = _new_decoder(layer, slot, x.dtype)
        if decoder is None:
            return None
        slot.decoder = decoder
    return decoder(x, ctx)


def _new_decoder(layer: Layer, slot: StepSlot, dtype: torch.dtype) -> AttentionDecoder | None:
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
    return AttentionDecoder(layer, slot, products, Weights(products, found, slot.short))


class AttentionDecoder:
    """`Layer.forward` of one token; its key and value join the slot."""

    def __init__(
        self, layer: Layer, slot: StepSlot, products: Sequence[Linear], weights: Weights
    ) -> None:
        attn: Any = layer.attn
        ffn: Any = layer.ffn
        kernel, memory = _kernel(), slot.attn
        norms = layer.attn_norm, layer.ffn_norm
        self._watch = Watch(layer, (memory.k, memory.v))
        self._weights = weights
        self._dtype, self._step = memory.k.dtype, kernel.layer_step
        self._rope, self._window = attn.rope_index, attn.config.window
        biases = [_bias(product) for product in products]
        rows = [row for norm in norms for row in _scaled(norm)]
        joined = np.concatenate(biases[:3]), np.concatenate(biases[4:-1])
        heads, key_heads = attn.config.num_attention_heads, memory.k.shape[1]
        size, capacity = attn.config.head_dim, memory.k.shape[2]
        widest = max(layer.attn_norm.size, heads * size, *(len(bias) for bias in joined))
        self._constant = (
            weights.table,
            np.stack([*rows, biases[3], biases[-1]]),
            joined,
            (
                kind_of(memory.k),
                kernel.RMS if layer.attn_norm.kind == "rms" else kernel.LAYER,
                getattr(kernel, _ACTIVATIONS[ffn.config.activation]),
            ),
            (float(norms[0].eps), float(norms[1].eps), float(attn.scale)),
            (
                memory.k.data_ptr(),
                memory.v.data_ptr(),
                key_heads,
                heads // key_heads,
                size,
                capacity,
                kernel.ATTEND,
            ),
            np.empty((3, widest), np.float32),
        )

    def serves(self, layer: Layer, slot: StepSlot, dtype: torch.dtype) -> bool:
        """Whether it was made for this layer, as it is now, for this very memory and dtype."""
        memory = slot.attn
        return dtype is self._dtype and self._watch.unchanged(layer, (memory.k, memory.v))

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """`x (1, 1, C) -> (1, 1, C)`."""
        x, out = x.contiguous(), torch.empty_like(x)
        self._weights.count()
        end = ctx.columns
        first = 0 if self._window is None else max(0, end - self._window)
        if self._rope < 0:
            now = 0, 0, 0, first, end
        else:
            cos, sin = ctx.rope[self._rope]
            now = cos.data_ptr(), sin.data_ptr(), cos.shape[-1], first, end
        with crew().at_work() as job:
            self._step(job, x.data_ptr(), *self._constant, now, out.data_ptr())
        return out


def _bias(product: Linear) -> np.ndarray:
    bias, outputs = product.bias, product.weight.shape[0]
    return np.zeros(outputs, np.float32) if bias is None else vector(bias)


def _scaled(norm: Norm) -> tuple[np.ndarray, np.ndarray]:
    """What a norm multiplies with, its offset included, and what it adds."""
    bias = np.zeros(norm.size, np.float32) if norm.bias is None else vector(norm.bias)
    return vector(norm.weight) + np.float32(norm.offset), bias
