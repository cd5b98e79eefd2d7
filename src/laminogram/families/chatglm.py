"""ChatGLM 2 and 3 and GLM-4 9B as first published: half of each head turns, in neighbouring pairs.

Source: `modeling_chatglm.py` of THUDM's chatglm2-6b, chatglm3-6b and glm-4-9b. Their factor
`apply_query_key_layer_scaling` is divided out of the scores again: it changes rounding alone.
"""

from __future__ import annotations

from dataclasses import replace

from laminogram.families._decoder import (
    decoder,
    decoder_layer,
    gated_mlp,
    grouped_attention,
    own_rope,
)
from laminogram.families._text import CHATGLM
from laminogram.families.base import (
    Deinterleave,
    Family,
    Fields,
    Layout,
    Rename,
    Shapes,
    SplitRows,
    halves,
    named,
    query_key_value,
)
from laminogram.stack.config import AttentionConfig, NormConfig, StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    for name in ("position_encoding_2d", "inner_hidden_size", "max_sequence_length"):
        if fields.raw(name) is not None:
            fields.refuse(name, fields.raw(name), "none: ChatGLM-6B, the first, is not supported")
    fields.only("multi_query_attention", True)
    fields.only("apply_residual_connection_post_layernorm", False)
    fields.only("original_rope", True)
    fields.only("prefix_projection", False)
    fields.only("quantization_bit", 0)
    rms, bias = fields.flag("rmsnorm", True), fields.flag("add_bias_linear", False)
    norm = NormConfig(
        kind="rms" if rms else "layer", eps=fields.number("rms_norm_eps", 1e-5), bias=not rms
    )
    ffn = gated_mlp(fields, activation="silu", bias=bias)
    config = decoder(fields, decoder_layer(fields, _attention(fields, bias), ffn=ffn, norm=norm))
    return config if fields.flag("post_layer_norm", True) else replace(config, final_norm=None)


def _attention(fields: Fields, bias: bool) -> AttentionConfig:
    """`rope_ratio` multiplies the base, but in chatglm2-6b-32k, where it divides the positions."""
    qkv_bias = fields.flag("add_qkv_bias", False) or bias
    attn = grouped_attention(fields, partial=0.5, qkv_bias=qkv_bias, o_bias=bias)
    ratio, named_as = fields.number("rope_ratio", 1.0), str(fields.raw("_name_or_path", ""))
    rope = own_rope(fields, attn)
    if ratio == 1:
        return attn
    if "chatglm2" in named_as.lower():
        return replace(attn, rope=replace(rope, kind="linear", parameters={"factor": ratio}))
    return replace(attn, rope=replace(rope, theta=rope.theta * ratio))


_LAYER, _OURS = "transformer.encoder.layers.{i}", "layers.{i}"
_TOKENS, _HEAD = "transformer.embedding.word_embeddings.weight", "transformer.output_layer.weight"

FAMILY = Family(
    name="chatglm",
    summary="ChatGLM 2, 3, GLM-4 9B (first form): fused projections, half of each head turned",
    model_types=("chatglm",),
    architectures=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
    configure=_configure,
    text=CHATGLM,
    harmless=(
        *("apply_query_key_layer_scaling", "bias_dropout_fusion", "fp32_residual_connection"),
        # What the published code overwrites with the fields that are read here.
        *("vocab_size", "num_hidden_layers"),
    ),
    layouts=(
        Layout(
            name="hf",
            marks=(f"{_LAYER}.self_attention.query_key_value.weight",),
            rules=(
                Rename(_TOKENS, "embed.tokens.weight"),
                *named(f"{_LAYER}.input_layernorm", f"{_OURS}.attn_norm"),
                *named(f"{_LAYER}.post_attention_layernorm", f"{_OURS}.ffn_norm"),
                *(
                    SplitRows(
                        f"{_LAYER}.self_attention.query_key_value.{part}",
                        *(f"{_OURS}.attn.{x}.{part}" for x in "qkv"),
                        rows=query_key_value,
                        each={f"{_OURS}.attn.{x}.{part}": (Deinterleave(),) for x in "qk"},
                    )
                    for part in ("weight", "bias")
                ),
                *named(f"{_LAYER}.self_attention.dense", f"{_OURS}.attn.o"),
                *(
                    SplitRows(
                        f"{_LAYER}.mlp.dense_h_to_4h.{part}",
                        *(f"{_OURS}.ffn.{x}.{part}" for x in ("gate", "up")),
                        rows=halves,
                    )
                    for part in ("weight", "bias")
                ),
                *named(f"{_LAYER}.mlp.dense_4h_to_h", f"{_OURS}.ffn.down"),
                *named("transformer.encoder.final_layernorm", "final_norm"),
                Rename(_HEAD, "head.weight"),
            ),
            ignore=("transformer.rotary_pos_emb.inv_freq",),
            duplicates=((_HEAD, _TOKENS),),
        ),
    ),
    names={
        "num_hidden_layers": "num_layers",
        "num_key_value_heads": "multi_query_group_num",
        "head_dim": "kv_channels",
        "intermediate_size": "ffn_hidden_size",
        "vocab_size": "padded_vocab_size",
        "rms_norm_eps": "layernorm_epsilon",
        "max_position_embeddings": "seq_length",
    },
    defaults={"kv_channels": 128, "multi_query_group_num": 1},
)
