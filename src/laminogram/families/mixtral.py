"""Mixtral: grouped keys, rotary, and in every layer a few of several experts for each token."""

from __future__ import annotations

from laminogram.families._decoder import ATTENTION, NORMS, decoder_layout, grouped_attention
from laminogram.families._experts import TRAINING, routed_experts, sparse_decoder
from laminogram.families._text import BOS
from laminogram.families.base import Family, Fields, Shapes
from laminogram.stack.config import MoEConfig, StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    experts = MoEConfig(
        num_experts=fields.integer("num_local_experts", 8),
        num_experts_per_tok=fields.integer("num_experts_per_tok", 2),
        intermediate_size=fields.integer("intermediate_size"),
        activation=fields.activation("hidden_act", "silu"),
        norm_topk_prob=True,
    )
    attn = grouped_attention(fields, window=fields.optional("sliding_window"))
    return sparse_decoder(fields, attn, experts, lambda layer: True)


FAMILY = Family(
    name="mixtral",
    summary="mixture of experts in every layer, grouped keys, sliding window",
    model_types=("mixtral",),
    architectures=("MixtralForCausalLM",),
    harmless=TRAINING,
    configure=_configure,
    text=BOS,
    layouts=(
        decoder_layout(
            *NORMS,
            *ATTENTION,
            *routed_experts("block_sparse_moe", {"w1": "gate", "w3": "up", "w2": "down"}),
        ),
    ),
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
    },
)
