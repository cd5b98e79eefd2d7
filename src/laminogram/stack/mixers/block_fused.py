"""What the compiled kernel takes (`kernels/token/block.py`) of a Transformer's layer: its norms and
its block equation, an attention (`attention_fused`, `latent_fused`) and what follows it
(`feed_forward_fused`).

Large layers only, and only where numba is there; everything else goes the usual way.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from laminogram.stack.cache import StepSlot
from laminogram.stack.config import AttentionConfig, LatentAttentionConfig, LayerConfig
from laminogram.stack.kernels.matvec import dtype_kind
from laminogram.stack.linear import Linear
from laminogram.stack.mixers import attention_fused, feed_forward_fused, latent_fused
from laminogram.stack.mixers.attention import Attention
from laminogram.stack.mixers.fused import (
    STREAMS,
    Called,
    FusedDecoder,
    Value,
    Weights,
    kind_of_norm,
    scaled,
    stored,
)
from laminogram.stack.mixers.latent import LatentAttention

if TYPE_CHECKING:
    from laminogram.stack.layer import Layer

_BLOCKS = {"pre": "PRE", "parallel": "PARALLEL", "sandwich": "SANDWICH"}
"""What the kernel calls a block equation."""
_MIXERS: dict[type, Any] = {Attention: attention_fused, LatentAttention: latent_fused}
"""By the kind of a token mixer: what tells its products, its memory and what its kernel takes."""


@cache
def _kernel() -> ModuleType:
    return importlib.import_module("laminogram.stack.kernels.token.block")


def has_fused_step(config: LayerConfig) -> bool:
    """Whether the kernels know all that layers of this configuration do."""
    attn = config.attn
    mixes = isinstance(attn, LatentAttentionConfig) or (
        isinstance(attn, AttentionConfig) and attn.causal
    )
    return mixes and config.block in _BLOCKS and feed_forward_fused.is_known(config.ffn)


def row_decoder(layer: Layer, slot: StepSlot, dtype: torch.dtype) -> FusedDecoder | None:
    """The decoder that the slot keeps, or a new one where that no longer serves; None where a
    kernel does not take the layer, or not in this dtype of the residual stream."""
    kept = slot.decoder
    if isinstance(kept, FusedDecoder) and kept.serves(layer, slot, dtype):
        return kept
    made = _new_decoder(layer, slot, dtype)
    if made is not None:
        slot.decoder = made
    return made


def _new_decoder(layer: Layer, slot: StepSlot, dtype: torch.dtype) -> FusedDecoder | None:
    attn: Any = layer.attn
    of, after = _MIXERS.get(type(attn)), feed_forward_fused.dense_products(layer.ffn)
    if of is None or after is None or dtype not in STREAMS or not of.takes(attn, slot.attn, dtype):
        return None
    own = of.products(attn)
    if any(type(product) is not Linear for product in (*own, *after)):
        return None
    found = stored([*own, *after])
    if found is None:
        return None
    weights = Weights([*own, *after], found, slot.short)
    mixer = of.mixer(attn, slot.attn, weights)
    network = feed_forward_fused.network(layer.ffn, weights, place=len(own))
    if mixer is None or network is None:
        return None
    return FusedDecoder(
        layer, slot, dtype, of.memories, weights, _kernel(), _values(layer, dtype, mixer, network)
    )


def _values(layer: Layer, dtype: torch.dtype, mixer: Called, network: Called) -> dict[str, Value]:
    """What the kernel takes of a layer."""
    kernel, norms = _kernel(), [layer.attn_norm, layer.ffn_norm]
    if layer.config.block == "sandwich":
        norms += [layer.attn_post_norm, layer.ffn_post_norm]
    return {
        "KIND": dtype_kind(dtype),
        "BLOCK": getattr(kernel, _BLOCKS[layer.config.block]),
        "NORM": kind_of_norm(layer.attn_norm),
        "SIZE": layer.attn_norm.size,
        "TABLE": np.stack([row for norm in norms for row in scaled(norm)]),
        "EPS": np.array([norm.eps for norm in norms], np.float32),
        "MIXER": mixer.function,
        "MIXER_TABLE": mixer.entries,
        "NETWORK": network.function,
        "NETWORK_TABLE": network.entries,
    }
