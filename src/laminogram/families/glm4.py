"""GLM-4 of April 2025 (0414): the earlier GLM-4 with norms before and after each mixer."""

from __future__ import annotations

from laminogram.families._decoder import (
    FUSED_GATED,
    INTERLEAVED,
    LAYER,
    NORMS,
    OURS,
    decoder,
    decoder_layer,
    decoder_layout,
    grouped_attention,
)
from laminogram.families._target import rope_with_share
from laminogram.families.base import TURNED, Family, Fields, Shapes, Target, named
from laminogram.stack.config import StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    attn = grouped_attention(fields, partial=0.5, qkv_bias=fields.flag("attention_bias", True))
    return decoder(fields, decoder_layer(fields, attn, block="sandwich"))


FAMILY = Family(
    name="glm4",
    summary="GLM-4 0414: sandwich norms, half-turned heads, fused gate and up",
    model_types=("glm4",),
    architectures=("Glm4ForCausalLM",),
    configure=_configure,
    layouts=(
        decoder_layout(
            # In spite of its name, post_attention_layernorm stands before the feed-forward network.
            *NORMS,
            *named(f"{LAYER}.post_self_attn_layernorm", f"{OURS}.attn_post_norm", "weight"),
            *named(f"{LAYER}.post_mlp_layernorm", f"{OURS}.ffn_post_norm", "weight"),
            *INTERLEAVED,
            *FUSED_GATED,
            target=Target(
                "Glm4ForCausalLM",
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
