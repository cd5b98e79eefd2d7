"""What decoders of Llama's form share: how their configuration reads, how their tensors are named.

A family puts its layer together from these parts and says what is different about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from laminogram.families.base import (
    Deinterleave,
    Fields,
    Layout,
    Rename,
    Rule,
    SplitRows,
    Target,
    halves,
    heads,
    named,
    read_rope,
)
from laminogram.stack.config import (
    AttentionConfig,
    AttnConfig,
    Block,
    EmbeddingConfig,
    FfnConfig,
    HeadConfig,
    LayerConfig,
    MLPConfig,
    NormConfig,
    RopeConfig,
    StackConfig,
)


def rms_norm(fields: Fields, *, offset: float = 0.0) -> NormConfig:
    """The RMSNorm that all places of the model share."""
    return NormConfig(kind="rms", eps=fields.number("rms_norm_eps", 1e-6), offset=offset)


def grouped_attention(
    fields: Fields, *, partial: float | None = None, **choices: Any
) -> AttentionConfig:
    """Attention with grouped keys and a rotary embedding.

    `partial` is as in `read_rope`; `choices` are further fields of `AttentionConfig`.
    """
    count, head_dim = heads(fields)
    keys = fields.integer("num_key_value_heads", count)
    if count % keys:
        fields.refuse("num_key_value_heads", keys, f"a divisor of num_attention_heads, {count}")
    positions = fields.integer("max_position_embeddings", 2048)
    return AttentionConfig(
        num_attention_heads=count,
        num_key_value_heads=keys,
        head_dim=head_dim,
        rope=read_rope(fields, head_dim, partial=partial, max_positions=positions),
        **choices,
    )


def own_rope(fields: Fields, attn: AttentionConfig) -> RopeConfig:
    """The plain rotary embedding of `attn`, for a family that stretches it by fields of its own.

    ConfigError where the configuration asks for one of the general stretches as well.
    """
    assert attn.rope is not None
    if attn.rope.kind != "default":
        fields.refuse("rope_type", attn.rope.kind, "default: the family stretches in its own way")
    return attn.rope


def gated_mlp(fields: Fields, *, activation: str | None = None, bias: bool = False) -> MLPConfig:
    """The gated feed-forward network; `activation` None is what `hidden_act` says."""
    return MLPConfig(
        intermediate_size=fields.integer("intermediate_size"),
        activation=activation or fields.activation("hidden_act", "silu"),
        gated=True,
        bias=bias,
    )


def windows(fields: Fields) -> tuple[int | None, ...]:
    """Each layer's attention window, None for a layer that sees everything.

    `use_sliding_window` allows windows at all; `layer_types` names the layers that have one, else
    they are those from `max_window_layers` on.
    """
    count, width = fields.integer("num_hidden_layers"), fields.optional("sliding_window")
    first, types = fields.raw("max_window_layers", count), fields.raw("layer_types")
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        fields.refuse("max_window_layers", first, "a whole number")
    if not fields.flag("use_sliding_window", False):
        width = None
    if types is None:
        return tuple(width if i >= first else None for i in range(count))
    known = {"full_attention": None, "sliding_attention": width}
    if not isinstance(types, list) or len(types) != count or not set(types) <= set(known):
        fields.refuse("layer_types", types, f"{count} of {', '.join(known)}")
    if width is None and "sliding_attention" in types:
        fields.refuse("layer_types", types, "full_attention alone, for there is no sliding_window")
    return tuple(known[kind] for kind in types)


def decoder_layer(
    fields: Fields,
    attn: AttnConfig,
    *,
    ffn: FfnConfig | None = None,
    norm: NormConfig | None = None,
    block: Block = "pre",
) -> LayerConfig:
    """One layer; what is not given is the gated network, the plain RMSNorm and the pre-norm."""
    return LayerConfig(
        block=block, norm=norm or rms_norm(fields), attn=attn, ffn=ffn or gated_mlp(fields)
    )


def decoder(
    fields: Fields,
    layers: LayerConfig | Sequence[LayerConfig],
    *,
    embedding: EmbeddingConfig | None = None,
) -> StackConfig:
    """The whole model around its layers, or around one that is repeated.

    The final norm is that of the layers; the head is tied where `tie_word_embeddings` says so.
    """
    count = fields.integer("num_hidden_layers")
    repeated = (layers,) * count if isinstance(layers, LayerConfig) else tuple(layers)
    return StackConfig(
        family=fields.family,
        hidden_size=fields.integer("hidden_size"),
        vocab_size=fields.integer("vocab_size"),
        layers=repeated,
        embedding=embedding or EmbeddingConfig(),
        final_norm=repeated[0].norm,
        head=HeadConfig(tied=fields.flag("tie_word_embeddings", False)),
        max_position_embeddings=fields.integer("max_position_embeddings", 2048),
        bos_token_id=fields.token("bos_token_id"),
        eos_token_ids=fields.tokens("eos_token_id"),
    )


LAYER, OURS = "model.layers.{i}", "layers.{i}"

ENDS: tuple[Rule, ...] = (
    Rename("model.embed_tokens.weight", "embed.tokens.weight"),
    Rename("model.norm.weight", "final_norm.weight"),
    Rename("lm_head.weight", "head.weight"),
)
NORMS: tuple[Rule, ...] = (
    *named(f"{LAYER}.input_layernorm", f"{OURS}.attn_norm", "weight"),
    *named(f"{LAYER}.post_attention_layernorm", f"{OURS}.ffn_norm", "weight"),
)
OUTPUT: tuple[Rule, ...] = named(f"{LAYER}.self_attn.o_proj", f"{OURS}.attn.o")
ATTENTION: tuple[Rule, ...] = (
    *(rule for x in "qkv" for rule in named(f"{LAYER}.self_attn.{x}_proj", f"{OURS}.attn.{x}")),
    *OUTPUT,
)
# Published with the turned pairs as neighbours instead of halves.
INTERLEAVED: tuple[Rule, ...] = (
    *(
        Rename(f"{LAYER}.self_attn.{x}_proj.{part}", f"{OURS}.attn.{x}.{part}", Deinterleave())
        for x in "qk"
        for part in ("weight", "bias")
    ),
    *named(f"{LAYER}.self_attn.v_proj", f"{OURS}.attn.v"),
    *OUTPUT,
)
DOWN: tuple[Rule, ...] = named(f"{LAYER}.mlp.down_proj", f"{OURS}.ffn.down")
GATED: tuple[Rule, ...] = (
    *named(f"{LAYER}.mlp.gate_proj", f"{OURS}.ffn.gate"),
    *named(f"{LAYER}.mlp.up_proj", f"{OURS}.ffn.up"),
    *DOWN,
)
FUSED_GATED: tuple[Rule, ...] = (
    SplitRows(
        f"{LAYER}.mlp.gate_up_proj.weight",
        f"{OURS}.ffn.gate.weight",
        f"{OURS}.ffn.up.weight",
        rows=halves,
    ),
    *DOWN,
)


def decoder_layout(
    *rules: Rule,
    mark: str = f"{LAYER}.self_attn.q_proj.weight",
    aliases: tuple[tuple[str, str], ...] = (),
    target: Target | None = None,
) -> Layout:
    """The layout "hf": the two ends with the rules of a layer, recognised by one of its tensors."""
    return Layout(
        name="hf",
        marks=(mark,),
        rules=(*ENDS, *rules),
        ignore=("*.rotary_emb.inv_freq",),
        duplicates=(("lm_head.weight", "model.embed_tokens.weight"),),
        aliases=aliases,
        target=target,
    )
