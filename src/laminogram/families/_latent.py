"""Multi-head latent attention as configurations and checkpoints state it.

Checkpoints store the turned pairs of rotary rows side by side; the stack has them apart.
"""

from __future__ import annotations

import math

from laminogram.families._decoder import LAYER, OURS
from laminogram.families.base import Binding, Deinterleave, Fields, Rename, Rule, named, read_rope
from laminogram.stack.config import LatentAttentionConfig, NormConfig, RopeConfig

_LATENT_EPS = 1e-6
"""That of the norms of the latents, whatever `rms_norm_eps` says of the others."""


def latent_attention(fields: Fields) -> LatentAttentionConfig:
    """The attention that a configuration describes; ConfigError where it is of another form."""
    heads = fields.integer("num_attention_heads")
    own, turned = fields.integer("qk_nope_head_dim"), fields.integer("qk_rope_head_dim")
    for name, value in (
        ("num_key_value_heads", heads),
        ("qk_head_dim", own + turned),
        ("head_dim", turned),
        ("rope_interleave", True),
    ):
        fields.only(name, value)
    positions = fields.integer("max_position_embeddings", 2048)
    rope = read_rope(fields, turned, max_positions=positions)
    return LatentAttentionConfig(
        num_attention_heads=heads,
        q_lora_rank=fields.optional("q_lora_rank"),
        kv_lora_rank=fields.integer("kv_lora_rank"),
        qk_nope_head_dim=own,
        qk_rope_head_dim=turned,
        v_head_dim=fields.integer("v_head_dim"),
        rope=rope,
        norm=NormConfig(kind="rms", eps=_LATENT_EPS),
        bias=fields.flag("attention_bias", False),
        scale=_scale(rope, own + turned),
    )


def _scale(rope: RopeConfig, size: int) -> float:
    """YaRN's temperature on the scores (`mscale_all_dim`) acts on whole heads: it is squared into
    the scale, for the frequencies' factor reaches the turned channels alone."""
    weight, factor = rope.parameters.get("mscale_all_dim"), rope.parameters.get("factor", 1.0)
    if not weight or factor <= 1:
        return float(size**-0.5)
    return float(size**-0.5 * (0.1 * weight * math.log(factor) + 1.0) ** 2)


def _of_queries(binding: Binding) -> tuple[int, int, int]:
    attn = binding.layer.attn
    assert isinstance(attn, LatentAttentionConfig)
    return attn.qk_head_dim, attn.qk_nope_head_dim, attn.qk_rope_head_dim


def _of_latent(binding: Binding) -> tuple[int, int, int]:
    attn = binding.layer.attn
    assert isinstance(attn, LatentAttentionConfig)
    return attn.latent_size, attn.kv_lora_rank, attn.qk_rope_head_dim


MARK = f"{LAYER}.self_attn.kv_a_proj_with_mqa.weight"
LATENT_ATTENTION: tuple[Rule, ...] = (
    *(
        Rename(
            f"{LAYER}.self_attn.{theirs}.weight",
            f"{OURS}.attn.{ours}.weight",
            Deinterleave(_of_queries),
        )
        for theirs, ours in (("q_proj", "q"), ("q_b_proj", "q_b"))
    ),
    *named(f"{LAYER}.self_attn.q_a_proj", f"{OURS}.attn.q_a"),
    *(
        Rename(
            f"{LAYER}.self_attn.kv_a_proj_with_mqa.{part}",
            f"{OURS}.attn.kv_a.{part}",
            Deinterleave(_of_latent),
        )
        for part in ("weight", "bias")
    ),
    *named(f"{LAYER}.self_attn.q_a_layernorm", f"{OURS}.attn.q_a_norm", "weight"),
    *named(f"{LAYER}.self_attn.kv_a_layernorm", f"{OURS}.attn.kv_a_norm", "weight"),
    *named(f"{LAYER}.self_attn.kv_b_proj", f"{OURS}.attn.kv_b", "weight"),
)
