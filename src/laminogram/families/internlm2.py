"""InternLM 2 and 2.5: Llama's mathematics, with query, key and value fused group by group.

Source: `modeling_internlm2.py` of internlm/internlm2-7b.
"""

from __future__ import annotations

from laminogram.families._decoder import decoder, decoder_layer, grouped_attention
from laminogram.families._target import attention
from laminogram.families._text import INTERNLM2
from laminogram.families.base import (
    GROUPED,
    Family,
    Fields,
    Layout,
    Rename,
    Shapes,
    SplitGroups,
    Target,
    named,
)
from laminogram.stack.config import StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    bias = fields.flag("bias", True)
    attn = grouped_attention(fields, qkv_bias=bias, o_bias=bias)
    return decoder(fields, decoder_layer(fields, attn))


_LAYER, _OURS = "model.layers.{i}", "layers.{i}"

FAMILY = Family(
    name="internlm2",
    summary="InternLM 2 and 2.5: grouped keys fused group by group, rotary, gated MLP",
    model_types=("internlm2",),
    architectures=("InternLM2ForCausalLM",),
    configure=_configure,
    text=INTERNLM2,
    layouts=(
        Layout(
            name="hf",
            marks=(f"{_LAYER}.attention.wqkv.weight", f"{_LAYER}.feed_forward.w1.weight"),
            rules=(
                Rename("model.tok_embeddings.weight", "embed.tokens.weight"),
                *named(f"{_LAYER}.attention_norm", f"{_OURS}.attn_norm", "weight"),
                *named(f"{_LAYER}.ffn_norm", f"{_OURS}.ffn_norm", "weight"),
                *(
                    SplitGroups(
                        f"{_LAYER}.attention.wqkv.{part}",
                        *(f"{_OURS}.attn.{x}.{part}" for x in "qkv"),
                    )
                    for part in ("weight", "bias")
                ),
                *named(f"{_LAYER}.attention.wo", f"{_OURS}.attn.o"),
                *named(f"{_LAYER}.feed_forward.w1", f"{_OURS}.ffn.gate", "weight"),
                *named(f"{_LAYER}.feed_forward.w3", f"{_OURS}.ffn.up", "weight"),
                *named(f"{_LAYER}.feed_forward.w2", f"{_OURS}.ffn.down", "weight"),
                Rename("model.norm.weight", "final_norm.weight"),
                Rename("output.weight", "head.weight"),
            ),
            ignore=("*.rotary_emb.inv_freq",),
            duplicates=(("output.weight", "model.tok_embeddings.weight"),),
            target=Target(
                "InternLM2ForCausalLM",
                (*GROUPED, "rope_theta", "rope_scaling"),
                {"bias": lambda config: attention(config).qkv_bias},
                opened_by="laminogram, and the family's own modelling code",
            ),
        ),
    ),
)
