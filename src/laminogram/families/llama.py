"""Llama 1 to 3, and what is published in its form: Yi, DeepSeek LLM.

They differ in sizes, grouped keys and the rotary embedding alone. The first uploads of Yi have a
model type of their own and call the norms ln1 and ln2.
"""

from __future__ import annotations

from laminogram.families._decoder import (
    ATTENTION,
    GATED,
    NORMS,
    decoder,
    decoder_layer,
    decoder_layout,
    gated_mlp,
    grouped_attention,
)
from laminogram.families._text import LLAMA
from laminogram.families.base import TURNED, Family, Fields, Shapes, Target
from laminogram.stack.config import StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    bias = fields.flag("attention_bias", False)
    attn = grouped_attention(fields, qkv_bias=bias, o_bias=bias)
    ffn = gated_mlp(fields, bias=fields.flag("mlp_bias", False))
    return decoder(fields, decoder_layer(fields, attn, ffn=ffn))


FAMILY = Family(
    name="llama",
    summary="Llama 1 to 3, Yi, DeepSeek LLM: pre-norm, grouped keys, any rotary scaling, gated MLP",
    model_types=("llama", "Yi"),
    architectures=("LlamaForCausalLM", "YiForCausalLM"),
    configure=_configure,
    harmless=("is_llama_config",),
    text=LLAMA,
    layouts=(
        decoder_layout(
            *NORMS,
            *ATTENTION,
            *GATED,
            aliases=(
                (".ln1.weight", ".input_layernorm.weight"),
                (".ln2.weight", ".post_attention_layernorm.weight"),
            ),
            target=Target("LlamaForCausalLM", (*TURNED, "attention_bias", "mlp_bias")),
        ),
    ),
)
