"""RWKV-6 under flash-linear-attention's names, restated from its conversion script.

Its token shifts lie in the order r, w, k, v, g, where ours and BlinkDL's is w, k, v, r, g.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from laminogram.families._rules import Fetch
from laminogram.families._rwkv import OURS
from laminogram.families._target import in_mix
from laminogram.families.base import SIZES, Binding, Layout, Rename, Rule, Target, Transpose, named

_FLA = "model.layers.{i}"
_FLA_ORDER, _ORDER = "rwkvg", "wkvrg"


@dataclass(frozen=True)
class Reordered:
    """(5 R, C) <-> (5, R, C): the token shifts' rows from fla's order to ours, each a block."""

    def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
        """Ours; a tensor of another number of rows is left for the shape check."""
        if tensor.dim() != 2 or tensor.shape[0] % len(_ORDER):
            return tensor
        blocks = tensor.unflatten(0, (len(_ORDER), -1))
        return torch.stack([blocks[_FLA_ORDER.index(name)] for name in _ORDER])

    def inverse(self, tensor: Tensor, binding: Binding) -> Tensor:
        """Theirs."""
        return torch.cat([tensor[_ORDER.index(name)] for name in _FLA_ORDER])


@dataclass(frozen=True)
class Joined:
    """(5, R, C) <-> (C, 5 R): blocks side by side."""

    def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
        """Ours."""
        return tensor.flatten(0, 1).t() if tensor.dim() == 3 else tensor

    def inverse(self, tensor: Tensor, binding: Binding) -> Tensor:
        """Theirs."""
        return tensor.t().unflatten(0, (len(_ORDER), -1))


class Unstack(Rule):
    """(P, C) <-> P tensors of (C,)."""

    def __init__(self, theirs: str, *ours: str) -> None:
        self.theirs, self.ours = (theirs,), ours

    def read(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """One row; of a tensor with another number of rows, all, for the shape check."""
        tensor = fetch(self.theirs[0])
        return tensor[which] if tensor.shape[:1] == (len(self.ours),) else tensor

    def write(self, which: int, fetch: Fetch, binding: Binding) -> Tensor:
        """All rows."""
        return torch.stack([fetch(name) for name in self.ours])


def finch_fla() -> Layout:
    """The layout of `fla`'s RWKV6ForCausalLM."""
    attn, ffn = f"{_FLA}.attn", f"{_FLA}.ffn"
    return Layout(
        name="fla",
        marks=("model.embeddings.weight", f"{attn}.x_bias"),
        rules=(
            Rename("model.embeddings.weight", "embed.tokens.weight"),
            *named("model.layers.0.pre_norm", "embed.norm"),
            *named(f"{_FLA}.attn_norm", f"{OURS}.attn_norm"),
            *named(f"{_FLA}.ffn_norm", f"{OURS}.ffn_norm"),
            Rename(f"{attn}.x_proj.0.mu", f"{OURS}.attn.mix_x"),
            Rename(f"{attn}.x_proj.0.linear.weight", f"{OURS}.attn.mix1", Reordered(), Joined()),
            Rename(f"{attn}.x_proj.2.weight", f"{OURS}.attn.mix2", Transpose(), Reordered()),
            Unstack(f"{attn}.x_bias", *(f"{OURS}.attn.mix_{name}" for name in _FLA_ORDER)),
            *(
                Rename(f"{attn}.{name}_proj.linear.weight", f"{OURS}.attn.{name}.weight")
                for name in "rkvg"
            ),
            Rename(f"{attn}.w_proj.linear.lora.0.weight", f"{OURS}.attn.w1", Transpose()),
            Rename(f"{attn}.w_proj.linear.lora.2.weight", f"{OURS}.attn.w2", Transpose()),
            Rename(f"{attn}.w_proj.linear.lora.2.bias", f"{OURS}.attn.w0"),
            Rename(f"{attn}.bonus", f"{OURS}.attn.bonus"),
            *named(f"{attn}.g_norm", f"{OURS}.attn.out_norm"),
            Rename(f"{attn}.o_proj.weight", f"{OURS}.attn.o.weight"),
            Rename(f"{ffn}.key.mu", f"{OURS}.ffn.mix_k"),
            Rename(f"{ffn}.key.linear.weight", f"{OURS}.ffn.up.weight"),
            Rename(f"{ffn}.receptance.mu", f"{OURS}.ffn.mix_r"),
            Rename(f"{ffn}.receptance.linear.weight", f"{OURS}.ffn.r.weight"),
            Rename(f"{ffn}.value.weight", f"{OURS}.ffn.down.weight"),
            *named("model.norm", "final_norm"),
            Rename("lm_head.weight", "head.weight"),
        ),
        duplicates=(("lm_head.weight", "model.embeddings.weight"),),
        target=Target(
            "RWKV6ForCausalLM",
            (*SIZES, "num_heads", "norm_eps", "max_position_embeddings"),
            {
                "proj_low_rank_dim": in_mix("mix_rank"),
                "gate_low_rank_dim": in_mix("decay_rank"),
                "hidden_act": lambda config: "sqrelu",
                # Its default for keys is half the width.
                "expand_k": lambda config: 1.0,
                "expand_v": lambda config: 1.0,
            },
            opened_by="flash-linear-attention",
        ),
    )
