"""Gemma 1: norms that learned their distance from one, scaled embeddings, a tied head."""

from __future__ import annotations

from laminogram.families._decoder import (
    ATTENTION,
    GATED,
    NORMS,
    decoder,
    decoder_layer,
    decoder_layout,
    gated_mlp,
    grouped_attention,
    rms_norm,
)
from laminogram.families._text import BOS
from laminogram.families.base import TURNED, Family, Fields, Shapes, Target
from laminogram.stack.config import EmbeddingConfig, StackConfig


def _activation(fields: Fields) -> str:
    """`hidden_act`, where "gelu" is an old name of the tanh form.

    Programs disagree on whether `hidden_activation` beside it wins, so the two must agree.
    """
    said = fields.activation("hidden_act", "gelu_pytorch_tanh")
    meant = "gelu_pytorch_tanh" if said == "gelu" else said
    fields.only("hidden_activation", meant)
    return meant


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    fields.only("use_bidirectional_attention", False)
    bias = fields.flag("attention_bias", False)
    layer = decoder_layer(
        fields,
        grouped_attention(fields, qkv_bias=bias, o_bias=bias),
        ffn=gated_mlp(fields, activation=_activation(fields)),
        norm=rms_norm(fields, offset=1.0),
    )
    scale = fields.integer("hidden_size") ** 0.5
    return decoder(fields, layer, embedding=EmbeddingConfig(scale=scale))


FAMILY = Family(
    name="gemma",
    summary="Gemma 1: 1 + weight in the norms, scaled embeddings, gated tanh GELU, tied head",
    model_types=("gemma",),
    architectures=("GemmaForCausalLM",),
    configure=_configure,
    text=BOS,
    layouts=(
        decoder_layout(
            *NORMS,
            *ATTENTION,
            *GATED,
            target=Target("GemmaForCausalLM", (*TURNED, "attention_bias")),
        ),
    ),
    defaults={
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
)
