"""What the checkpoints of RWKV-4 to 6 have in common: the same tree under BlinkDL's names and under
Hugging Face's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from laminogram.families._target import in_mix
from laminogram.families.base import (
    SIZES,
    Halved,
    Rename,
    Rule,
    Squeeze,
    Target,
    Transpose,
    named,
)
from laminogram.stack.config import StackConfig

OURS = "layers.{i}"
SAID = (*SIZES, "attention_hidden_size", "layer_norm_epsilon")
"""What configurations of the Hugging Face form have in common."""
_MATRICES = {"key": "k", "value": "v", "receptance": "r", "gate": "g"}


@dataclass(frozen=True)
class Tree:
    """The names of a tree's parts; `layer` and what is below it contain `{i}`."""

    embedding: str
    first_norm: str
    layer: str
    attention: str
    ffn: str
    final_norm: str


BLINK = Tree(
    "emb.weight", "blocks.0.ln0", "blocks.{i}", "blocks.{i}.att", "blocks.{i}.ffn", "ln_out"
)
HF = Tree(
    "rwkv.embeddings.weight",
    "rwkv.blocks.0.pre_ln",
    "rwkv.blocks.{i}",
    "rwkv.blocks.{i}.attention",
    "rwkv.blocks.{i}.feed_forward",
    "rwkv.ln_out",
)


def shared(
    tree: Tree,
    turn: tuple[Transpose, ...] = (),
    halved: tuple[Halved, ...] = (),
    *,
    first_norm: bool = True,
) -> tuple[Rule, ...]:
    """The rules for all that is not the time mix's own: ends, norms and square products.

    `turn` and `halved` are what was done to every product and to those that write to the residual.
    """
    return (
        Rename(tree.embedding, "embed.tokens.weight"),
        *(named(tree.first_norm, "embed.norm") if first_norm else ()),
        *named(f"{tree.layer}.ln1", f"{OURS}.attn_norm"),
        *named(f"{tree.layer}.ln2", f"{OURS}.ffn_norm"),
        *(
            Rename(f"{tree.attention}.{theirs}.weight", f"{OURS}.attn.{ours}.weight", *turn)
            for theirs, ours in _MATRICES.items()
        ),
        Rename(f"{tree.attention}.output.weight", f"{OURS}.attn.o.weight", *turn, *halved),
        Rename(f"{tree.ffn}.key.weight", f"{OURS}.ffn.up.weight", *turn),
        Rename(f"{tree.ffn}.receptance.weight", f"{OURS}.ffn.r.weight", *turn),
        Rename(f"{tree.ffn}.value.weight", f"{OURS}.ffn.down.weight", *turn, *halved),
        *named(tree.final_norm, "final_norm"),
        Rename("head.weight", "head.weight", *turn),
    )


def mixes(prefix: str, part: str, names: Mapping[str, str]) -> tuple[Rule, ...]:
    """Token shifts (1, 1, C): `names` from the ending of theirs to our letter."""
    return tuple(
        Rename(f"{prefix}{theirs}", f"{OURS}.{part}.mix_{ours}", Squeeze())
        for theirs, ours in names.items()
    )


def letters(names: str) -> dict[str, str]:
    """Letters that are the same on both sides, for `mixes`."""
    return {name: name for name in names}


def head_size_divisor(config: StackConfig) -> float:
    """By what a head's answer was divided before its norm, as the norm's epsilon shows."""
    eps = float(getattr(config.layers[0].attn, "group_norm_eps", 64e-5))
    return round((eps / 1e-5) ** 0.5, 6)


def hub_target(architecture: str, **ranks: str) -> Target:
    """The hub's configurations of RWKV-5 and 6; `ranks` are fields with ours that they hold."""
    special = {field: in_mix(ours) for field, ours in ranks.items()}
    return Target(
        architecture,
        (*SAID, "head_size"),
        {"head_size_divisor": head_size_divisor, **special},
        opened_by="laminogram, and the hub's modelling code",
    )
