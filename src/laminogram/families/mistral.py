"""Mistral: Llama's form with a sliding window, which later versions switch off."""

from __future__ import annotations

from laminogram.families._decoder import (
    ATTENTION,
    GATED,
    NORMS,
    decoder,
    decoder_layer,
    decoder_layout,
    grouped_attention,
)
from laminogram.families._text import BOS
from laminogram.families.base import TURNED, Family, Fields, Shapes, Target
from laminogram.stack.config import StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    fields.only("attention_bias", False)
    attn = grouped_attention(fields, window=fields.optional("sliding_window"))
    return decoder(fields, decoder_layer(fields, attn))


FAMILY = Family(
    name="mistral",
    summary="Llama's form with a sliding window over the last tokens, or without",
    model_types=("mistral",),
    architectures=("MistralForCausalLM",),
    configure=_configure,
    text=BOS,
    layouts=(
        decoder_layout(
            *NORMS,
            *ATTENTION,
            *GATED,
            target=Target("MistralForCausalLM", (*TURNED, "sliding_window")),
        ),
    ),
    # An absent window is the first release's; null is none.
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    },
)
