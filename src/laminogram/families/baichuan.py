"""Baichuan 1 and 2: the 7B models turn their heads, the 13B models slope; 2 normalises its head.

Source: `modeling_baichuan.py` of baichuan-inc's Baichuan-7B, Baichuan-13B-Base, Baichuan2-7B-Base
and Baichuan2-13B-Base. While 2 is trained, its head is normalised in every forward; its first
evaluation overwrites the weight with the normalised one. Both give the logits that are formed here.
"""

from __future__ import annotations

from dataclasses import replace

from laminogram.families._decoder import (
    GATED,
    LAYER,
    NORMS,
    OURS,
    OUTPUT,
    decoder,
    decoder_layer,
    decoder_layout,
    grouped_attention,
    own_rope,
)
from laminogram.families._text import BAICHUAN
from laminogram.families.base import Family, Fields, Shapes, SplitRows, query_key_value
from laminogram.stack.config import StackConfig

_WIDTH_OF_7B, _WIDTH_OF_13B = 4096, 5120
_VOCABULARY_OF_2 = 125_696


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    fields.only("rope_theta", 10_000.0)
    attn, slopes = grouped_attention(fields), _trained_with_slopes(fields)
    rope = own_rope(fields, attn)
    attn = replace(attn, rope=rope if slopes is None else None, alibi=slopes is not None)
    config = decoder(fields, decoder_layer(fields, attn))
    second = fields.raw("z_loss_weight") is not None or config.vocab_size >= _VOCABULARY_OF_2
    if second and config.head.tied:
        fields.refuse("tie_word_embeddings", True, "false: the head of Baichuan 2 is normalised")
    return replace(
        config,
        head=replace(config.head, normalised=second),
        max_position_embeddings=slopes or config.max_position_embeddings,
    )


def _trained_with_slopes(fields: Fields) -> int | None:
    """The trained length of a model with slopes (13B), None for one with rotary positions (7B).

    No field says which. The configurations of the 7B models have `max_position_embeddings`, which
    their rotary reads; those of the 13B models have `model_max_length` alone, for their slopes.
    Where the published widths say otherwise, somebody has changed the fields: nothing is guessed.
    """
    width, slopes = fields.integer("hidden_size"), fields.optional("model_max_length")
    turned = fields.optional("max_position_embeddings")
    if turned is not None and width == _WIDTH_OF_13B:
        fields.refuse("max_position_embeddings", turned, "none: the 13B models have no rotary")
    if turned is None and (slopes is None or width == _WIDTH_OF_7B):
        expected = "the trained length of a 7B model, with rotary positions; a 13B model, with "
        fields.refuse("max_position_embeddings", None, expected + "slopes, has model_max_length")
    return None if turned is not None else slopes


_FUSED = f"{LAYER}.self_attn.W_pack.weight"

FAMILY = Family(
    name="baichuan",
    summary="Baichuan 1 and 2: fused projections, rotary (7B) or ALiBi (13B), normalised head (2)",
    model_types=("baichuan",),
    architectures=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    configure=_configure,
    text=BAICHUAN,
    layouts=(
        decoder_layout(
            *NORMS,
            SplitRows(_FUSED, *(f"{OURS}.attn.{x}.weight" for x in "qkv"), rows=query_key_value),
            *OUTPUT,
            *GATED,
            mark=_FUSED,
        ),
    ),
)
