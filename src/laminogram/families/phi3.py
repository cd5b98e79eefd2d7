"""Phi-3 and Phi-4: fused projections, part of each head turned, one rotary for short texts and
another for long ones."""

from __future__ import annotations

from laminogram.families._decoder import (
    FUSED_GATED,
    LAYER,
    NORMS,
    OURS,
    OUTPUT,
    decoder,
    decoder_layer,
    decoder_layout,
    grouped_attention,
)
from laminogram.families._text import BOS
from laminogram.families.base import (
    TURNED,
    Family,
    Fields,
    Shapes,
    SplitRows,
    Target,
    query_key_value,
)
from laminogram.stack.config import StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    for bias in ("attention_bias", "mlp_bias", "lm_head_bias"):
        fields.only(bias, False)
    for unused in ("full_attn_mod", "interpolate_factor"):  # Phi-4-mini's, which no program reads
        fields.only(unused, 1)
    fields.integer("original_max_position_embeddings")  # the length at which the rotary changes
    window = fields.optional("sliding_window")
    attn = grouped_attention(fields, partial=1.0, window=window)
    if attn.rope is not None and attn.rope.kind not in ("default", "longrope"):
        fields.refuse("rope_type", attn.rope.kind, "default or longrope")
    return decoder(fields, decoder_layer(fields, attn))


_FUSED = f"{LAYER}.self_attn.qkv_proj.weight"

FAMILY = Family(
    name="phi3",
    summary="Phi-3, Phi-4: fused q, k, v and gate, up; partial rotary, LongRoPE, sliding window",
    model_types=("phi3",),
    architectures=("Phi3ForCausalLM",),
    configure=_configure,
    text=BOS,
    harmless=("embd_pdrop", "resid_pdrop"),
    layouts=(
        decoder_layout(
            *NORMS,
            SplitRows(_FUSED, *(f"{OURS}.attn.{x}.weight" for x in "qkv"), rows=query_key_value),
            *OUTPUT,
            *FUSED_GATED,
            mark=_FUSED,
            target=Target(
                "Phi3ForCausalLM",
                (*TURNED, "sliding_window", "original_max_position_embeddings"),
            ),
        ),
    ),
    defaults={
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    },
)
