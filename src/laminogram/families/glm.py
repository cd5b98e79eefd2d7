"""GLM-4 9B in the form of `transformers`: half of each head turns, by pairs of neighbours."""

from __future__ import annotations

from laminogram.families._decoder import (
    FUSED_GATED,
    INTERLEAVED,
    NORMS,
    decoder,
    decoder_layer,
    decoder_layout,
    grouped_attention,
)
from laminogram.families._target import rope_with_share
from laminogram.families.base import TURNED, Family, Fields, Shapes, Target
from laminogram.stack.config import StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    attn = grouped_attention(fields, partial=0.5, qkv_bias=fields.flag("attention_bias", True))
    return decoder(fields, decoder_layer(fields, attn))


FAMILY = Family(
    name="glm",
    summary="GLM-4 9B: half-turned heads, biases on q, k and v, fused gate and up",
    model_types=("glm",),
    architectures=("GlmForCausalLM",),
    configure=_configure,
    layouts=(
        decoder_layout(
            *NORMS,
            *INTERLEAVED,
            *FUSED_GATED,
            target=Target(
                "GlmForCausalLM",
                (*TURNED, "attention_bias"),
                {"rope_parameters": rope_with_share},
            ),
        ),
    ),
    defaults={
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1.5625e-7,
    },
)
