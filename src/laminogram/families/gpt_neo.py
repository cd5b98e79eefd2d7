"""GPT-Neo: GPT-2's form with plain matrices, unscaled scores and windows in every other layer."""

from __future__ import annotations

from laminogram.families._gpt import HARMLESS, gpt, gpt_layout
from laminogram.families.base import Family, Fields, Layout, Shapes, named
from laminogram.stack.config import StackConfig


def _windows(fields: Fields) -> list[int | None]:
    """`attention_types`, a list such as [[["global", "local"], 6]], told layer by layer."""
    count, types = fields.integer("num_hidden_layers"), fields.raw("attention_types")
    known = {"global": None, "local": fields.integer("window_size", 256)}
    try:
        kinds = [str(kind) for some, times in types for kind in list(some) * min(times, count + 1)]
    except (TypeError, ValueError):
        kinds = []
    if len(kinds) != count or not set(kinds) <= set(known):
        fields.refuse("attention_types", types, f"[kinds, times] of {count} {' or '.join(known)}")
    fields.only("attention_layers", kinds)  # the same once more, in files that hold both
    return [known[kind] for kind in kinds]


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    # Queries are not scaled: the training's initialisation made up for it.
    return gpt(fields, [{"scale": 1.0, "window": width} for width in _windows(fields)])


def _layout(name: str, prefix: str) -> Layout:
    layer, ours = prefix + "h.{i}", "layers.{i}"
    attention = f"{layer}.attn.attention"
    return gpt_layout(
        name,
        prefix,
        f"{attention}.q_proj.weight",
        *(rule for x in "qkv" for rule in named(f"{attention}.{x}_proj", f"{ours}.attn.{x}")),
        *named(f"{attention}.out_proj", f"{ours}.attn.o"),
        *named(f"{layer}.mlp.c_fc", f"{ours}.ffn.up"),
        *named(f"{layer}.mlp.c_proj", f"{ours}.ffn.down"),
    )


FAMILY = Family(
    name="gpt_neo",
    summary="GPT-Neo: learned positions, LayerNorm, unscaled scores, windows in some layers",
    model_types=("gpt_neo",),
    architectures=("GPTNeoForCausalLM", "GPTNeoModel"),
    configure=_configure,
    harmless=HARMLESS,
    layouts=(_layout("hf", "transformer."), _layout("hf-base", "")),
    names={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
    defaults={
        "attention_types": [[["global", "local"], 12]],
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
)
