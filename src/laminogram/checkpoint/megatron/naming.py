"""What Megatron calls its tensors, and how each is cut among tensor-parallel ranks.

The global name is that of the current code with Transformer Engine's norms, layers numbered through
the whole model: `decoder.layers.17.self_attention.linear_qkv.layer_norm_weight`. Files say the same
in older words, with norms of their own ("local"), and count layers anew on every pipeline stage.

Layouts: `megatron/core/models/gpt` and `megatron/training/checkpointing.py` of NVIDIA/Megatron-LM.
"""

from __future__ import annotations

import re
from typing import Literal

from laminogram.families.base import (
    Layout,
    Rename,
    SplitGroups,
    SplitRows,
    halves,
    named,
)

Norms = Literal["te", "local"]
# How a tensor is cut among the ranks: not at all, by rows, by columns, both halves of its rows
# (gate and up) each by rows, and rows of a vocabulary that is padded first.
Cut = Literal["whole", "rows", "columns", "halves", "vocabulary"]

EMBEDDING, OUTPUT = "embedding.word_embeddings.weight", "output_layer.weight"
_LAYER, _OURS = "decoder.layers.{i}", "layers.{i}"
_ATTENTION, _MLP = f"{_LAYER}.self_attention", f"{_LAYER}.mlp"
_PARTS = ("weight", "bias")

LAYOUT = Layout(
    name="megatron",
    marks=(f"{_ATTENTION}.linear_qkv.weight", f"{_MLP}.linear_fc1.weight"),
    rules=(
        Rename(EMBEDDING, "embed.tokens.weight"),
        Rename(f"{_ATTENTION}.linear_qkv.layer_norm_weight", f"{_OURS}.attn_norm.weight"),
        *(
            SplitGroups(
                f"{_ATTENTION}.linear_qkv.{part}", *(f"{_OURS}.attn.{x}.{part}" for x in "qkv")
            )
            for part in _PARTS
        ),
        *named(f"{_ATTENTION}.q_layernorm", f"{_OURS}.attn.q_norm", "weight"),
        *named(f"{_ATTENTION}.k_layernorm", f"{_OURS}.attn.k_norm", "weight"),
        *named(f"{_ATTENTION}.linear_proj", f"{_OURS}.attn.o"),
        Rename(f"{_MLP}.linear_fc1.layer_norm_weight", f"{_OURS}.ffn_norm.weight"),
        *(
            SplitRows(
                f"{_MLP}.linear_fc1.{part}",
                f"{_OURS}.ffn.gate.{part}",
                f"{_OURS}.ffn.up.{part}",
                rows=halves,
            )
            for part in _PARTS
        ),
        *named(f"{_MLP}.linear_fc2", f"{_OURS}.ffn.down"),
        Rename("decoder.final_layernorm.weight", "final_norm.weight"),
        Rename(OUTPUT, "head.weight"),
    ),
    duplicates=((OUTPUT, EMBEDDING),),
)

_CUTS: tuple[tuple[str, Cut], ...] = (
    (r"(embedding\.word_embeddings|output_layer)\.weight", "vocabulary"),
    (r".*\.linear_qkv\.(weight|bias)", "rows"),
    (r".*\.linear_fc1\.(weight|bias)", "halves"),
    (r".*\.(linear_proj|linear_fc2)\.weight", "columns"),
)
# Older words, replaced in this order.
_OLD: tuple[tuple[str, str], ...] = (
    (r"^(module\.)+", ""),
    (r"^language_model\.", ""),
    (r"^(encoder|transformer)\.", "decoder."),
    (r"^word_embeddings_for_head\.", "output_layer."),
    (r"^decoder\.final_norm\.", "decoder.final_layernorm."),
    (r"\.attention\.", ".self_attention."),
    (r"\.query_key_value\.", ".linear_qkv."),
    (r"\.self_attention\.dense\.", ".self_attention.linear_proj."),
    (r"\.dense_h_to_4h\.", ".linear_fc1."),
    (r"\.dense_4h_to_h\.", ".linear_fc2."),
    (r"\.input_(layer)?norm\.weight$", ".self_attention.linear_qkv.layer_norm_weight"),
    (r"\.(post_attention|pre_mlp)_(layer)?norm\.weight$", ".mlp.linear_fc1.layer_norm_weight"),
)
_LOCAL = {
    ".self_attention.linear_qkv.layer_norm_weight": ".input_layernorm.weight",
    ".mlp.linear_fc1.layer_norm_weight": ".pre_mlp_layernorm.weight",
}
# Modules whose state beside the weights (fp8 scales) Transformer Engine looks for; it may be empty.
LINEARS = (
    "self_attention.linear_qkv",
    "self_attention.linear_proj",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
)
_NUMBER = re.compile(r"(?<=^decoder\.layers\.)\d+(?=\.)")


def canonical(name: str) -> str:
    """A file's name for a tensor in today's words; the layer keeps the number it has there."""
    for old, new in _OLD:
        name = re.sub(old, new, name)
    return name


def meaningless(name: str) -> bool:
    """True for what lies among the weights and is none: fp8 state, rotary tables."""
    return "_extra_state" in name or name.endswith(("inv_freq", "rotary_pos_emb"))


def cut_of(name: str) -> Cut:
    """How the tensor of a global name is cut among ranks."""
    for expression, cut in _CUTS:
        if re.fullmatch(expression, name):
            return cut
    return "whole"


def layer_of(name: str) -> int | None:
    """The layer's number in a canonical name, or None for the ends of the model."""
    found = _NUMBER.search(name)
    return int(found.group()) if found else None


def numbered(name: str, layer: int) -> str:
    """The same name with another layer's number."""
    return _NUMBER.sub(str(layer), name)


def spelled(name: str, norms: Norms) -> str:
    """A canonical name as a file spells it whose norms are Transformer Engine's or local."""
    for te, local in _LOCAL.items():
        if norms == "local" and name.endswith(te):
            return name.removesuffix(te) + local
    return name


def stacked(name: str) -> str:
    """The name under which a layer's tensor is stacked with those of the other layers."""
    return re.sub(r"^decoder\.layers\.\d+\.", "decoder.layers.", name)
