"""What GPT-2 and GPT-Neo share: learned positions, LayerNorm, biases, a plain feed-forward network.

A family names its fields (`Family.names`) and says how its attention differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from laminogram.families._decoder import decoder
from laminogram.families.base import Fields, Layout, Rename, Rule, heads, named
from laminogram.stack.config import (
    AttentionConfig,
    EmbeddingConfig,
    LayerConfig,
    MLPConfig,
    NormConfig,
    StackConfig,
)

HARMLESS = (
    "attn_pdrop",
    "embd_pdrop",
    "n_ctx",
    "n_special",
    "predict_special_tokens",
    "resid_pdrop",
    "summary_activation",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
)


def gpt(fields: Fields, choices: Iterable[dict[str, Any]]) -> StackConfig:
    """The whole model; `choices` are each layer's further fields of `AttentionConfig`."""
    count, head_dim = heads(fields)
    hidden = fields.integer("hidden_size")
    layer = LayerConfig(
        block="pre",
        norm=NormConfig(kind="layer", eps=fields.number("layer_norm_epsilon", 1e-5), bias=True),
        attn=AttentionConfig(
            num_attention_heads=count, num_key_value_heads=count, head_dim=head_dim, o_bias=True
        ),
        ffn=MLPConfig(
            intermediate_size=fields.integer("intermediate_size", 4 * hidden),
            activation=fields.activation("activation_function", "gelu_new"),
            bias=True,
        ),
    )
    return decoder(
        fields,
        [replace(layer, attn=replace(layer.attn, **choice)) for choice in choices],
        embedding=EmbeddingConfig(positions=fields.integer("max_position_embeddings")),
    )


def gpt_layout(name: str, prefix: str, mark: str, *rules: Rule) -> Layout:
    """The layout of that name: the two ends and the norms, with the rules of the two mixers."""
    layer, ours = prefix + "h.{i}", "layers.{i}"
    return Layout(
        name=name,
        marks=(mark,),
        rules=(
            Rename(f"{prefix}wte.weight", "embed.tokens.weight"),
            Rename(f"{prefix}wpe.weight", "embed.positions.weight"),
            *named(f"{layer}.ln_1", f"{ours}.attn_norm"),
            *named(f"{layer}.ln_2", f"{ours}.ffn_norm"),
            *named(f"{prefix}ln_f", "final_norm"),
            *rules,
            Rename("lm_head.weight", "head.weight"),
        ),
        # Tables of the causal mask, and of what masked scores were set to.
        ignore=tuple(
            f"{prefix}h.*.attn.{part}"
            for part in ("bias", "masked_bias", "attention.bias", "attention.masked_bias")
        ),
        duplicates=(("lm_head.weight", f"{prefix}wte.weight"),),
    )
