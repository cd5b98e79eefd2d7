"""StarCoder2: grouped keys and a rotary embedding, with LayerNorms, biases and a plain MLP."""

from __future__ import annotations

from laminogram.families._decoder import (
    ATTENTION,
    LAYER,
    OURS,
    decoder,
    decoder_layer,
    decoder_layout,
    grouped_attention,
)
from laminogram.families.base import Family, Fields, Shapes, named
from laminogram.stack.config import MLPConfig, NormConfig, StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    bias = fields.flag("use_bias", True)
    fields.only("norm_type", "layer_norm")
    fields.only("mlp_type", "default")
    fields.only("scale_attn_weights", True)
    eps = fields.number("norm_epsilon", 1e-5)
    fields.only("layer_norm_epsilon", eps)  # the same once more, in the published files
    norm = NormConfig(kind="layer", eps=eps, bias=True)
    attn = grouped_attention(
        fields, qkv_bias=bias, o_bias=bias, window=fields.optional("sliding_window")
    )
    ffn = MLPConfig(
        intermediate_size=fields.integer("intermediate_size"),
        activation=fields.activation("hidden_act", "gelu_pytorch_tanh"),
        bias=bias,
    )
    return decoder(fields, decoder_layer(fields, attn, ffn=ffn, norm=norm))


FAMILY = Family(
    name="starcoder2",
    summary="grouped keys and rotary with LayerNorms, biases and a plain MLP",
    model_types=("starcoder2",),
    architectures=("Starcoder2ForCausalLM",),
    configure=_configure,
    layouts=(
        decoder_layout(
            *named(f"{LAYER}.input_layernorm", f"{OURS}.attn_norm"),
            *named(f"{LAYER}.post_attention_layernorm", f"{OURS}.ffn_norm"),
            *named("model.norm", "final_norm"),
            *ATTENTION,
            *named(f"{LAYER}.mlp.c_fc", f"{OURS}.ffn.up"),
            *named(f"{LAYER}.mlp.c_proj", f"{OURS}.ffn.down"),
        ),
    ),
    defaults={
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    },
)
