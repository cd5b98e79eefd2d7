"""GPT-2: learned positions, LayerNorm, biases everywhere; matrices stored the other way round."""

from __future__ import annotations

from laminogram.families._gpt import HARMLESS, gpt, gpt_layout
from laminogram.families.base import (
    Family,
    Fields,
    Layout,
    Rename,
    Shapes,
    SplitRows,
    Transpose,
    heads,
    query_key_value,
)
from laminogram.stack.config import StackConfig


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    _, head_dim = heads(fields)
    scale = head_dim**-0.5 if fields.flag("scale_attn_weights", True) else 1.0
    falls = fields.flag("scale_attn_by_inverse_layer_idx", False)
    scales = [scale / (i + 1 if falls else 1) for i in range(fields.integer("num_hidden_layers"))]
    return gpt(fields, [{"qkv_bias": True, "scale": scale} for scale in scales])


def _layout(name: str, prefix: str) -> Layout:
    layer, ours = prefix + "h.{i}", "layers.{i}"
    fused = f"{layer}.attn.c_attn"
    matrices = {
        f"{layer}.attn.c_proj": f"{ours}.attn.o",
        f"{layer}.mlp.c_fc": f"{ours}.ffn.up",
        f"{layer}.mlp.c_proj": f"{ours}.ffn.down",
    }
    return gpt_layout(
        name,
        prefix,
        f"{fused}.weight",
        *(
            SplitRows(
                f"{fused}.{part}",
                *(f"{ours}.attn.{x}.{part}" for x in "qkv"),
                rows=query_key_value,
                whole=(Transpose(),),  # a bias stays as it is
            )
            for part in ("weight", "bias")
        ),
        *(
            Rename(f"{theirs}.{part}", f"{own}.{part}", Transpose())
            for theirs, own in matrices.items()
            for part in ("weight", "bias")
        ),
    )


FAMILY = Family(
    name="gpt2",
    summary="GPT-2: learned positions, LayerNorm, biases, fused q, k, v, transposed matrices",
    model_types=("gpt2",),
    architectures=("GPT2LMHeadModel", "GPT2Model"),
    configure=_configure,
    harmless=(*HARMLESS, "reorder_and_upcast_attn"),
    layouts=(_layout("hf", "transformer."), _layout("hf-base", "")),
    names={
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    defaults={"n_positions": 1024, "tie_word_embeddings": True},
)
