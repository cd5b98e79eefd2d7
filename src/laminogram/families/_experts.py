"""What mixtures of experts share: which layers have one, and how its tensors are named.

On disk every expert has tensors of its own, as published checkpoints and current programs write
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from laminogram.families._decoder import LAYER, OURS, decoder, decoder_layer, gated_mlp
from laminogram.families.base import Fields, Rule, named
from laminogram.stack.config import AttnConfig, MoEConfig, StackConfig

PROJECTIONS = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}

TRAINING: tuple[str, ...] = (
    "router_aux_loss_coef",
    "router_jitter_noise",
    "aux_loss_alpha",
    "seq_aux",
    "ep_size",
)
"""Fields that balance the experts in training or place them on devices."""


def routed_experts(block: str, projections: Mapping[str, str] = PROJECTIONS) -> tuple[Rule, ...]:
    """The router and the experts of the module `block` in a layer."""
    return (
        *named(f"{LAYER}.{block}.gate", f"{OURS}.ffn.router", "weight"),
        *(
            rule
            for theirs, ours in projections.items()
            for rule in named(
                f"{LAYER}.{block}.experts.{{e}}.{theirs}",
                f"{OURS}.ffn.experts.{{e}}.{ours}",
                "weight",
            )
        ),
    )


SHARED: tuple[Rule, ...] = tuple(
    rule
    for theirs, ours in PROJECTIONS.items()
    for rule in named(f"{LAYER}.mlp.shared_experts.{theirs}", f"{OURS}.ffn.shared.{ours}", "weight")
)


def shared_width(fields: Fields) -> int | None:
    """The width of the experts that every token meets, which are one network; None without."""
    count = fields.optional("n_shared_experts")
    return None if count is None else count * fields.integer("moe_intermediate_size")


def after_the_dense(fields: Fields) -> Callable[[int], bool]:
    """Which layers have experts: every `moe_layer_freq`-th, from `first_k_dense_replace` on."""
    first, every = fields.raw("first_k_dense_replace", 0), fields.integer("moe_layer_freq", 1)
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        fields.refuse("first_k_dense_replace", first, "a whole number")
    return lambda layer: layer >= first and layer % every == 0


def sparse_decoder(
    fields: Fields, attn: AttnConfig, experts: MoEConfig, sparse: Callable[[int], bool]
) -> StackConfig:
    """A decoder whose layers have the experts where `sparse` says so of their number, else the
    plain gated network. ConfigError where it says so of none."""
    moe, count = decoder_layer(fields, attn, ffn=experts), fields.integer("num_hidden_layers")
    found = [sparse(i) for i in range(count)]
    if not any(found):
        fields.refuse("num_hidden_layers", count, "at least one layer with experts")
    dense = moe if all(found) else decoder_layer(fields, attn, ffn=gated_mlp(fields))
    fields.raw("intermediate_size")  # of the dense layers, of which there may be none
    return decoder(fields, [moe if here else dense for here in found])
