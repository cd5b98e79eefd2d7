"""DeepSeek-V3 and R1: latent attention, and a router of sigmoids that a bias keeps balanced.

The layer behind the last that published files carry for predicting a second token is left out.
Source: DeepSeek-AI, "DeepSeek-V3" (arXiv 2412.19437), and the published code.
"""

from __future__ import annotations

from dataclasses import replace

from laminogram.families._decoder import GATED, LAYER, NORMS, OURS, OUTPUT, decoder_layout
from laminogram.families._experts import (
    SHARED,
    TRAINING,
    after_the_dense,
    routed_experts,
    shared_width,
    sparse_decoder,
)
from laminogram.families._latent import LATENT_ATTENTION, MARK, latent_attention
from laminogram.families.base import Family, Fields, Rename, Shapes
from laminogram.stack.config import MoEConfig, StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    fields.only("scoring_func", "sigmoid")
    fields.only("topk_method", "noaux_tc")
    for name in ("num_nextn_predict_layers", "num_mtp_layers"):
        fields.only(name, 0, 1)
    experts = MoEConfig(
        num_experts=fields.integer("n_routed_experts"),
        num_experts_per_tok=fields.integer("num_experts_per_tok"),
        intermediate_size=fields.integer("moe_intermediate_size"),
        activation=fields.activation("hidden_act", "silu"),
        scoring="sigmoid",
        router_fp32=True,
        norm_topk_prob=fields.flag("norm_topk_prob", True),
        routed_scaling_factor=fields.number("routed_scaling_factor", 1.0),
        correction_bias=True,
        n_group=fields.integer("n_group", 1),
        topk_group=fields.integer("topk_group", 1),
        best_of_group=2,
        shared_intermediate_size=shared_width(fields),
    )
    return sparse_decoder(fields, latent_attention(fields), experts, after_the_dense(fields))


_LAYOUT = decoder_layout(
    *NORMS,
    *LATENT_ATTENTION,
    *OUTPUT,
    *GATED,
    *routed_experts("mlp"),
    Rename(f"{LAYER}.mlp.gate.e_score_correction_bias", f"{OURS}.ffn.correction"),
    *SHARED,
    mark=MARK,
)
FAMILY = Family(
    name="deepseek_v3",
    summary="latent attention, many experts chosen by sigmoid and bias, fp8 files",
    model_types=("deepseek_v3",),
    architectures=("DeepseekV3ForCausalLM",),
    harmless=TRAINING,
    configure=_configure,
    layouts=(replace(_LAYOUT, ignore=(*_LAYOUT.ignore, "model.layers.{layers}.*")),),
    defaults={
        "first_k_dense_replace": 3,
        "max_position_embeddings": 4096,
        "n_group": 8,
        "n_shared_experts": 1,
        "q_lora_rank": 1536,
        "routed_scaling_factor": 2.5,
        "topk_group": 4,
    },
)
