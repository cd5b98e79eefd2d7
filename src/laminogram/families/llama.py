"""Llama 1 to 3 and what shares its form (Yi, DeepSeek LLM): pre-norm, grouped keys, gated MLP."""

from __future__ import annotations

from laminogram.families.base import (
    Family,
    Fields,
    Layout,
    Rename,
    Shapes,
    heads,
    named,
    read_rope,
)
from laminogram.stack.config import (
    AttentionConfig,
    HeadConfig,
    LayerConfig,
    MLPConfig,
    NormConfig,
    StackConfig,
)


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    count, head_dim = heads(fields)
    keys = fields.integer("num_key_value_heads", count)
    if count % keys:
        fields.refuse("num_key_value_heads", keys, f"a divisor of num_attention_heads, {count}")
    positions = fields.integer("max_position_embeddings", 2048)
    bias = fields.flag("attention_bias", False)
    norm = NormConfig(kind="rms", eps=fields.number("rms_norm_eps", 1e-6))
    layer = LayerConfig(
        block="pre",
        norm=norm,
        attn=AttentionConfig(
            num_attention_heads=count,
            num_key_value_heads=keys,
            head_dim=head_dim,
            qkv_bias=bias,
            o_bias=bias,
            rope=read_rope(fields, head_dim, max_positions=positions),
        ),
        ffn=MLPConfig(
            intermediate_size=fields.integer("intermediate_size"),
            activation=fields.activation("hidden_act", "silu"),
            gated=True,
            bias=fields.flag("mlp_bias", False),
        ),
    )
    return StackConfig(
        family="llama",
        hidden_size=fields.integer("hidden_size"),
        vocab_size=fields.integer("vocab_size"),
        layers=(layer,) * fields.integer("num_hidden_layers"),
        final_norm=norm,
        head=HeadConfig(tied=fields.flag("tie_word_embeddings", False)),
        max_position_embeddings=positions,
        bos_token_id=fields.token("bos_token_id"),
        eos_token_ids=fields.tokens("eos_token_id"),
    )


_LAYER = "model.layers.{i}"
_PAIRS = (
    *((f"self_attn.{part}_proj", f"attn.{part}") for part in "qkvo"),
    *((f"mlp.{part}_proj", f"ffn.{part}") for part in ("gate", "up", "down")),
)

FAMILY = Family(
    name="llama",
    summary="pre-norm decoder, grouped keys, rotary with every scaling kind, gated MLP",
    model_types=("llama",),
    architectures=("LlamaForCausalLM",),
    configure=_configure,
    layouts=(
        Layout(
            name="hf",
            marks=(f"{_LAYER}.self_attn.q_proj.weight", f"{_LAYER}.mlp.gate_proj.weight"),
            rules=(
                Rename("model.embed_tokens.weight", "embed.tokens.weight"),
                *named(f"{_LAYER}.input_layernorm", "layers.{i}.attn_norm", "weight"),
                *named(f"{_LAYER}.post_attention_layernorm", "layers.{i}.ffn_norm", "weight"),
                *(
                    rule
                    for theirs, ours in _PAIRS
                    for rule in named(f"{_LAYER}.{theirs}", f"layers.{{i}}.{ours}")
                ),
                Rename("model.norm.weight", "final_norm.weight"),
                Rename("lm_head.weight", "head.weight"),
            ),
            ignore=("*.rotary_emb.inv_freq",),
            duplicates=(("lm_head.weight", "model.embed_tokens.weight"),),
        ),
    ),
)
