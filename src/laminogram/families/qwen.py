"""Qwen, the first generation: fused projections, log-n queries, a rotary that grows in steps.

Source: `modeling_qwen.py` of Qwen/Qwen-7B. It is departed from in two things: a text that passes a
doubling of the trained length while it is generated gets the frequencies of its new length, as if
it had been given whole; and a query is scaled by its place in the text, not by its column in a
padded batch.
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
from laminogram.families._text import QWEN
from laminogram.families.base import (
    Family,
    Fields,
    Layout,
    Rename,
    Shapes,
    SplitRows,
    named,
    query_key_value,
)
from laminogram.stack.config import AttentionConfig, MLPConfig, StackConfig
from laminogram.stack.rope import inverse_frequencies


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    for tower in ("visual", "audio"):
        if fields.raw(tower) is not None:
            fields.refuse(tower, "given", "none: the models that see or hear are not supported")
    fields.only("scale_attn_weights", True)
    fields.only("use_cache_quantization", False)
    bias = not fields.flag("no_bias", True)
    layer = decoder_layer(fields, _attention(fields, bias), ffn=_mlp(fields, bias))
    return decoder(fields, layer)


def _attention(fields: Fields, bias: bool) -> AttentionConfig:
    attn = grouped_attention(fields, partial=1.0, qkv_bias=True, o_bias=bias)
    hidden, trained = fields.integer("hidden_size"), fields.integer("seq_length")
    if attn.head_dim * attn.num_attention_heads != hidden:
        fields.refuse("head_dim", attn.head_dim, f"heads that make up hidden_size, {hidden}")
    if trained < 2:
        fields.refuse("seq_length", trained, "at least 2 tokens")
    rope = own_rope(fields, attn)
    if fields.flag("use_dynamic_ntk", True):
        lengths = {"original_max_position_embeddings": trained}
        rope = replace(rope, kind="dynamic_log2", parameters=lengths)
        inverse_frequencies(rope, 1)  # refuses what cannot be turned so
    scaled = fields.flag("use_logn_attn", True)
    return replace(attn, rope=rope, log_n=trained if scaled else None)


def _mlp(fields: Fields, bias: bool) -> MLPConfig:
    """`intermediate_size` counts gate and up together."""
    both = gated_mlp(fields, activation="silu", bias=bias)
    if both.intermediate_size % 2:
        fields.refuse("intermediate_size", both.intermediate_size, "an even number: gate and up")
    return replace(both, intermediate_size=both.intermediate_size // 2)


_LAYER, _OURS = "transformer.h.{i}", "layers.{i}"

FAMILY = Family(
    name="qwen",
    summary="Qwen 1: fused biased projections, log-n queries, rotary that grows in steps",
    model_types=("qwen",),
    architectures=("QWenLMHeadModel",),
    configure=_configure,
    text=QWEN,
    harmless=(
        *("bf16", "fp16", "fp32", "onnx_safe"),
        *("use_flash_attn", "use_cache_kernel"),
    ),
    layouts=(
        Layout(
            name="hf",
            marks=(f"{_LAYER}.attn.c_attn.weight", f"{_LAYER}.mlp.w1.weight"),
            rules=(
                Rename("transformer.wte.weight", "embed.tokens.weight"),
                *named(f"{_LAYER}.ln_1", f"{_OURS}.attn_norm", "weight"),
                *named(f"{_LAYER}.ln_2", f"{_OURS}.ffn_norm", "weight"),
                *(
                    SplitRows(
                        f"{_LAYER}.attn.c_attn.{part}",
                        *(f"{_OURS}.attn.{x}.{part}" for x in "qkv"),
                        rows=query_key_value,
                    )
                    for part in ("weight", "bias")
                ),
                *named(f"{_LAYER}.attn.c_proj", f"{_OURS}.attn.o"),
                *named(f"{_LAYER}.mlp.w1", f"{_OURS}.ffn.up"),
                *named(f"{_LAYER}.mlp.w2", f"{_OURS}.ffn.gate"),
                *named(f"{_LAYER}.mlp.c_proj", f"{_OURS}.ffn.down"),
                Rename("transformer.ln_f.weight", "final_norm.weight"),
                Rename("lm_head.weight", "head.weight"),
            ),
            ignore=("*.rotary_emb.inv_freq", "*.attn.masked_bias"),
            duplicates=(("lm_head.weight", "transformer.wte.weight"),),
        ),
    ),
    names={
        "head_dim": "kv_channels",
        "rms_norm_eps": "layer_norm_epsilon",
        "rope_theta": "rotary_emb_base",
        "partial_rotary_factor": "rotary_pct",
    },
    defaults={"kv_channels": 128, "max_position_embeddings": 8192},
)
