"""Qwen3-MoE: norms on the heads of q and k, many narrow experts, in all or in some layers."""

from __future__ import annotations

from laminogram.families._decoder import (
    ATTENTION,
    GATED,
    LAYER,
    NORMS,
    OURS,
    decoder_layout,
    grouped_attention,
    rms_norm,
)
from laminogram.families._experts import TRAINING, routed_experts, sparse_decoder
from laminogram.families.base import Family, Fields, Shapes, named
from laminogram.stack.config import MoEConfig, StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    bias = fields.flag("attention_bias", False)
    attn = grouped_attention(fields, qkv_bias=bias, o_bias=bias, qk_norm=rms_norm(fields))
    fields.only("use_sliding_window", False)
    known = fields.optional("num_local_experts")  # how some programs write the same number
    experts = MoEConfig(
        num_experts=fields.integer("num_experts", known),
        num_experts_per_tok=fields.integer("num_experts_per_tok"),
        intermediate_size=fields.integer("moe_intermediate_size"),
        activation=fields.activation("hidden_act", "silu"),
        norm_topk_prob=fields.flag("norm_topk_prob", False),
    )
    every, dense = fields.integer("decoder_sparse_step", 1), fields.raw("mlp_only_layers", [])
    if not isinstance(dense, list) or not all(isinstance(layer, int) for layer in dense):
        fields.refuse("mlp_only_layers", dense, "a list of layers")
    return sparse_decoder(
        fields, attn, experts, lambda layer: (layer + 1) % every == 0 and layer not in dense
    )


FAMILY = Family(
    name="qwen3_moe",
    summary="mixture of many narrow experts, norms on the heads of q and k, grouped keys",
    model_types=("qwen3_moe",),
    architectures=("Qwen3MoeForCausalLM",),
    harmless=(*TRAINING, "sliding_window", "max_window_layers"),
    configure=_configure,
    layouts=(
        decoder_layout(
            *NORMS,
            *ATTENTION,
            *named(f"{LAYER}.self_attn.q_norm", f"{OURS}.attn.q_norm", "weight"),
            *named(f"{LAYER}.self_attn.k_norm", f"{OURS}.attn.k_norm", "weight"),
            *GATED,
            *routed_experts("mlp"),
        ),
    ),
    defaults={"num_key_value_heads": 4, "max_position_embeddings": 32_768},
)
