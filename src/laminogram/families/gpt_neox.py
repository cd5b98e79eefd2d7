"""GPT-NeoX (Pythia): parallel or sequential residual, partial rotary, biases, LayerNorm."""

from __future__ import annotations

from laminogram.families.base import (
    Family,
    Fields,
    Layout,
    Rename,
    Shapes,
    SplitHeads,
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
    positions = fields.integer("max_position_embeddings", 2048)
    bias = fields.flag("attention_bias", True)
    norm = NormConfig(kind="layer", eps=fields.number("layer_norm_eps", 1e-5), bias=True)
    rope = read_rope(
        fields,
        head_dim,
        theta_field="rotary_emb_base",
        partial_field="rotary_pct",
        partial=0.25,
        max_positions=positions,
    )
    # The same two once more, under the names of other families, as some programs write them.
    fields.only("rope_theta", rope.theta)
    fields.only("partial_rotary_factor", fields.raw("rotary_pct", 0.25))
    layer = LayerConfig(
        block="parallel" if fields.flag("use_parallel_residual", True) else "pre",
        norm=norm,
        attn=AttentionConfig(
            num_attention_heads=count,
            num_key_value_heads=count,
            head_dim=head_dim,
            qkv_bias=bias,
            o_bias=bias,
            rope=rope,
        ),
        ffn=MLPConfig(
            intermediate_size=fields.integer("intermediate_size"),
            activation=fields.activation("hidden_act", "gelu"),
            bias=True,
        ),
    )
    return StackConfig(
        family="gpt_neox",
        hidden_size=fields.integer("hidden_size"),
        vocab_size=fields.integer("vocab_size"),
        layers=(layer,) * fields.integer("num_hidden_layers"),
        final_norm=norm,
        head=HeadConfig(tied=fields.flag("tie_word_embeddings", False)),
        max_position_embeddings=positions,
        bos_token_id=fields.token("bos_token_id"),
        eos_token_ids=fields.tokens("eos_token_id"),
    )


_LAYER = "gpt_neox.layers.{i}"
_OURS = "layers.{i}"

FAMILY = Family(
    name="gpt_neox",
    summary="parallel-residual decoder, partial rotary, fused query-key-value, biases",
    model_types=("gpt_neox",),
    architectures=("GPTNeoXForCausalLM",),
    configure=_configure,
    layouts=(
        Layout(
            name="hf",
            marks=(f"{_LAYER}.attention.query_key_value.weight",),
            rules=(
                Rename("gpt_neox.embed_in.weight", "embed.tokens.weight"),
                *named(f"{_LAYER}.input_layernorm", f"{_OURS}.attn_norm"),
                *named(f"{_LAYER}.post_attention_layernorm", f"{_OURS}.ffn_norm"),
                *(
                    SplitHeads(
                        f"{_LAYER}.attention.query_key_value.{part}",
                        *(f"{_OURS}.attn.{name}.{part}" for name in "qkv"),
                    )
                    for part in ("weight", "bias")
                ),
                *named(f"{_LAYER}.attention.dense", f"{_OURS}.attn.o"),
                *named(f"{_LAYER}.mlp.dense_h_to_4h", f"{_OURS}.ffn.up"),
                *named(f"{_LAYER}.mlp.dense_4h_to_h", f"{_OURS}.ffn.down"),
                *named("gpt_neox.final_layer_norm", "final_norm"),
                Rename("embed_out.weight", "head.weight"),
            ),
            ignore=(
                "*.attention.bias",
                "*.attention.masked_bias",
                "*.attention.rotary_emb.inv_freq",
                "gpt_neox.rotary_emb.inv_freq",
            ),
            duplicates=(("embed_out.weight", "gpt_neox.embed_in.weight"),),
        ),
    ),
)
