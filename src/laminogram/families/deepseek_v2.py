"""DeepSeek-V2: multi-head latent attention, narrow experts beside shared ones, in groups.

Source: DeepSeek-AI, "DeepSeek-V2" (arXiv 2405.04434), and the published code.
"""

from __future__ import annotations

from laminogram.families._decoder import GATED, NORMS, OUTPUT, decoder_layout
from laminogram.families._experts import (
    SHARED,
    TRAINING,
    after_the_dense,
    routed_experts,
    shared_width,
    sparse_decoder,
)
from laminogram.families._latent import LATENT_ATTENTION, MARK, latent_attention
from laminogram.families.base import Family, Fields, Shapes
from laminogram.stack.config import MoEConfig, StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    fields.only("scoring_func", "softmax")
    fields.only("mlp_bias", False)
    fields.only("norm_topk_prob", False)  # programs disagree whether the scaling factor then counts
    grouped = fields.raw("topk_method", "greedy") != "greedy"
    fields.only("topk_method", "greedy", "group_limited_greedy")
    groups, reach = fields.optional("n_group") or 1, fields.optional("topk_group") or 1
    experts = MoEConfig(
        num_experts=fields.integer("n_routed_experts"),
        num_experts_per_tok=fields.integer("num_experts_per_tok"),
        intermediate_size=fields.integer("moe_intermediate_size"),
        activation=fields.activation("hidden_act", "silu"),
        router_fp32=True,
        routed_scaling_factor=fields.number("routed_scaling_factor", 1.0),
        n_group=groups if grouped else 1,
        topk_group=reach if grouped else 1,
        shared_intermediate_size=shared_width(fields),
    )
    return sparse_decoder(fields, latent_attention(fields), experts, after_the_dense(fields))


FAMILY = Family(
    name="deepseek_v2",
    summary="latent attention with one narrow cache, grouped experts beside shared ones",
    model_types=("deepseek_v2",),
    architectures=("DeepseekV2ForCausalLM",),
    harmless=TRAINING,
    configure=_configure,
    layouts=(
        decoder_layout(
            *NORMS,
            *LATENT_ATTENTION,
            *OUTPUT,
            *GATED,
            *routed_experts("mlp"),
            *SHARED,
            mark=MARK,
        ),
    ),
    defaults={"q_lora_rank": 1536},
)
