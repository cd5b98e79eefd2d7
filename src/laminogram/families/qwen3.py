"""Qwen3: a norm on each head of queries and keys before it turns; a head size of its own."""

from __future__ import annotations

from dataclasses import replace

from laminogram.families._decoder import (
    ATTENTION,
    GATED,
    LAYER,
    NORMS,
    OURS,
    decoder,
    decoder_layer,
    decoder_layout,
    grouped_attention,
    rms_norm,
    windows,
)
from laminogram.families.base import TURNED, Family, Fields, Shapes, Target, named
from laminogram.stack.config import StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    bias = fields.flag("attention_bias", False)
    attn = grouped_attention(fields, qkv_bias=bias, o_bias=bias, qk_norm=rms_norm(fields))
    layers = [decoder_layer(fields, replace(attn, window=width)) for width in windows(fields)]
    return decoder(fields, layers)


FAMILY = Family(
    name="qwen3",
    summary="Llama's form with a norm on each head of q and k, windows by layer",
    model_types=("qwen3",),
    architectures=("Qwen3ForCausalLM",),
    configure=_configure,
    layouts=(
        decoder_layout(
            *NORMS,
            *ATTENTION,
            *named(f"{LAYER}.self_attn.q_norm", f"{OURS}.attn.q_norm", "weight"),
            *named(f"{LAYER}.self_attn.k_norm", f"{OURS}.attn.k_norm", "weight"),
            *GATED,
            target=Target(
                "Qwen3ForCausalLM",
                (*TURNED, "attention_bias", "sliding_window", "use_sliding_window", "layer_types"),
            ),
        ),
    ),
    defaults={
        "head_dim": 128,
        "max_position_embeddings": 32_768,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
)
