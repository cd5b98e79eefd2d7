"""Qwen2 and Qwen2.5: biases on queries, keys and values; windows in some layers where asked for."""

from __future__ import annotations

from dataclasses import replace

from laminogram.families._decoder import (
    ATTENTION,
    GATED,
    NORMS,
    decoder,
    decoder_layer,
    decoder_layout,
    grouped_attention,
    windows,
)
from laminogram.families.base import TURNED, Family, Fields, Shapes, Target
from laminogram.stack.config import StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    attn = grouped_attention(fields, qkv_bias=True)
    layers = [decoder_layer(fields, replace(attn, window=width)) for width in windows(fields)]
    return decoder(fields, layers)


FAMILY = Family(
    name="qwen2",
    summary="Qwen2, Qwen2.5: Llama's form with biases on q, k and v, windows by layer",
    model_types=("qwen2",),
    architectures=("Qwen2ForCausalLM",),
    configure=_configure,
    layouts=(
        decoder_layout(
            *NORMS,
            *ATTENTION,
            *GATED,
            target=Target(
                "Qwen2ForCausalLM",
                (*TURNED, "sliding_window", "use_sliding_window", "layer_types"),
            ),
        ),
    ),
    defaults={
        "max_position_embeddings": 32_768,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
)
