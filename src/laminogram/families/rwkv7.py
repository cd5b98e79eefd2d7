"""RWKV-7: BlinkDL's names and flash-linear-attention's. Sizes and ranks are read from shapes.

Names and formulas of BlinkDL's files were compared with the `rwkv` package, flash-linear-
attention's names with its published conversion only.
"""

from __future__ import annotations

from typing import Any

from laminogram.families._blink import (
    LAYER,
    STATE,
    generation,
    has_tuned_state,
    layer_count,
    size,
)
from laminogram.families._target import in_mix
from laminogram.families._text import RWKV
from laminogram.families.base import (
    PTH,
    SIZES,
    Family,
    Fields,
    Layout,
    Rename,
    Shapes,
    Squeeze,
    Target,
    Transpose,
    named,
)
from laminogram.stack.config import (
    ChannelMix7Config,
    EmbeddingConfig,
    HeadConfig,
    LayerConfig,
    NormConfig,
    StackConfig,
    TimeMix7Config,
)

_OURS, _FLA = "layers.{i}", "model.layers.{i}"
# Low-rank products: our letter, the configuration's name for its rank, fla's module.
_RANKS = (
    ("w", "decay_low_rank_dim"),
    ("a", "a_low_rank_dim"),
    ("v", "v_low_rank_dim"),
    ("g", "gate_low_rank_dim"),
)


def _ranks(fields: Fields, shapes: Shapes | None, layer: int) -> dict[str, int]:
    """The four ranks of one layer: from the tensors where there are any, else from the fields."""
    ranks, shapes = {}, shapes or {}
    for letter, name in _RANKS:
        blink = shapes.get(LAYER.format(i=layer) + f".att.{letter}1")
        fla = shapes.get(_FLA.format(i=layer) + f".attn.{letter}_lora.lora.0.weight")
        fields.raw(name)
        if letter == "v" and layer == 0:
            ranks[letter] = 0  # the first layer provides v_first and mixes nothing into it
        elif blink is not None and len(blink) == 2:
            ranks[letter] = blink[1]
        elif fla is not None and len(fla) == 2:
            ranks[letter] = fla[0]
        else:
            ranks[letter] = fields.integer(name)
    return ranks


def _heads(fields: Fields, hidden: int) -> tuple[int, int]:
    """Number and size of the heads from either field; heads of 64 where neither is given."""
    count, head_dim = fields.optional("num_heads"), fields.optional("head_dim")
    head_dim = head_dim or (hidden // count if count else 64)
    if head_dim * (count or hidden // head_dim) != hidden:
        fields.refuse("head_dim", head_dim, f"heads that make up hidden_size, {hidden}")
    return hidden // head_dim, head_dim


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    fields.only("hidden_act", "sqrelu")
    fields.only("norm_first", True)
    fields.only("norm_bias", True)
    fields.only("attn_mode", "chunk", "fused_recurrent")
    hidden = fields.integer("hidden_size")
    if fields.raw("attn") is not None:
        fields.refuse("attn", fields.raw("attn"), "null: hybrids with attention are not supported")
    widths = fields.raw("value_dim", hidden)
    if any(width != hidden for width in (widths if isinstance(widths, list) else [widths])):
        fields.refuse("value_dim", widths, f"hidden_size, {hidden}, in every layer")
    count, head_dim = _heads(fields, hidden)
    norm = NormConfig(kind="layer", eps=fields.number("norm_eps", 1e-5), bias=True)
    # Training normalises o / 8 with epsilon 1e-5 for heads of 64: this epsilon, without the / 8.
    eps = fields.number("group_norm_eps", head_dim * norm.eps)
    inner = int(hidden * fields.number("hidden_ratio", 4))
    inner = fields.integer("intermediate_size", 32 * ((inner + 31) // 32))
    layers = []
    for index in range(fields.integer("num_hidden_layers")):
        ranks = _ranks(fields, shapes, index)
        mix = TimeMix7Config(
            num_attention_heads=count,
            head_dim=head_dim,
            decay_rank=ranks["w"],
            a_rank=ranks["a"],
            v_rank=ranks["v"],
            gate_rank=ranks["g"],
            group_norm_eps=eps,
            provides_v_first=index == 0,
            initial_state=has_tuned_state(shapes, index),
        )
        channel = ChannelMix7Config(intermediate_size=inner)
        layers.append(LayerConfig(block="pre", norm=norm, attn=mix, ffn=channel))
    return StackConfig(
        family="rwkv7",
        hidden_size=hidden,
        vocab_size=fields.integer("vocab_size"),
        layers=tuple(layers),
        embedding=EmbeddingConfig(norm=norm),
        final_norm=norm,
        head=HeadConfig(tied=fields.flag("tie_word_embeddings", False)),
        max_position_embeddings=fields.optional("max_position_embeddings"),
        bos_token_id=fields.token("bos_token_id"),
        eos_token_ids=fields.tokens("eos_token_id"),
    )


def _recognise(shapes: Shapes) -> dict[str, Any] | None:
    if generation(shapes) != 7:
        return None
    count, head_dim = (size(shapes, "blocks.0.att.r_k", axis) for axis in (0, 1))
    layers = layer_count(shapes, f"{LAYER}.att.r_k")
    last = LAYER.format(i=layers - 1)
    ranks = {
        name: size(shapes, f"{last}.att.{letter}1", 1)
        for letter, name in _RANKS
        if letter != "v" or layers > 1
    }
    return {
        "model_type": "rwkv7",
        "vocab_size": size(shapes, "emb.weight", 0),
        "hidden_size": size(shapes, "emb.weight", 1),
        "intermediate_size": size(shapes, "blocks.0.ffn.key.weight", 0),
        "num_hidden_layers": layers,
        "num_heads": count,
        "head_dim": head_dim,
        "norm_eps": 1e-5,
        "group_norm_eps": 64e-5,
        "bos_token_id": 0,
        "eos_token_id": 0,
        **ranks,
    }


_MATRICES = (("receptance", "r"), ("key", "k"), ("value", "v"), ("output", "o"))
_BLINK = Layout(
    name="blink",
    marks=("emb.weight", f"{LAYER}.att.r_k"),
    rules=(
        Rename("emb.weight", "embed.tokens.weight"),
        *named("blocks.0.ln0", "embed.norm"),
        *named(f"{LAYER}.ln1", f"{_OURS}.attn_norm"),
        *named(f"{LAYER}.ln2", f"{_OURS}.ffn_norm"),
        *(Rename(f"{LAYER}.att.x_{n}", f"{_OURS}.attn.mix_{n}", Squeeze()) for n in "rwkvag"),
        *(
            Rename(f"{LAYER}.att.{n}", f"{_OURS}.attn.{n}", Squeeze())
            for n in ("w0", "a0", "v0", "k_k", "k_a")
        ),
        *(
            Rename(f"{LAYER}.att.{n}", f"{_OURS}.attn.{n}")
            for n in ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2", "r_k")
        ),
        *(
            Rename(f"{LAYER}.att.{theirs}.weight", f"{_OURS}.attn.{ours}.weight")
            for theirs, ours in _MATRICES
        ),
        *named(f"{LAYER}.att.ln_x", f"{_OURS}.attn.out_norm"),
        STATE,
        Rename(f"{LAYER}.ffn.x_k", f"{_OURS}.ffn.mix_k", Squeeze()),
        Rename(f"{LAYER}.ffn.key.weight", f"{_OURS}.ffn.up.weight"),
        Rename(f"{LAYER}.ffn.value.weight", f"{_OURS}.ffn.down.weight"),
        *named("ln_out", "final_norm"),
        Rename("head.weight", "head.weight"),
    ),
    # Published files carry them; nothing reads them, for layer 0 is where v_first comes from.
    ignore=("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2"),
    target=PTH,
)
_HF = Layout(
    name="fla",
    marks=("model.embeddings.weight", f"{_FLA}.attn.r_k"),
    rules=(
        Rename("model.embeddings.weight", "embed.tokens.weight"),
        *named("model.layers.0.pre_norm", "embed.norm"),
        *named(f"{_FLA}.attn_norm", f"{_OURS}.attn_norm"),
        *named(f"{_FLA}.ffn_norm", f"{_OURS}.ffn_norm"),
        *(Rename(f"{_FLA}.attn.x_{n}", f"{_OURS}.attn.mix_{n}", Squeeze()) for n in "rwkvag"),
        *(
            Rename(f"{_FLA}.attn.{n}_lora.lora.2.bias", f"{_OURS}.attn.{n}0", Squeeze(0))
            for n in "wav"
        ),
        *(
            Rename(f"{_FLA}.attn.{n}_lora.lora.{at}.weight", f"{_OURS}.attn.{n}{k}", Transpose())
            for n in "wavg"
            for at, k in ((0, 1), (2, 2))
        ),
        *(Rename(f"{_FLA}.attn.{n}", f"{_OURS}.attn.{n}", Squeeze(0)) for n in ("k_k", "k_a")),
        Rename(f"{_FLA}.attn.r_k", f"{_OURS}.attn.r_k"),
        *(Rename(f"{_FLA}.attn.{n}_proj.weight", f"{_OURS}.attn.{n}.weight") for n in "rkvo"),
        *named(f"{_FLA}.attn.g_norm", f"{_OURS}.attn.out_norm"),
        Rename(f"{_FLA}.ffn.x_k", f"{_OURS}.ffn.mix_k", Squeeze(0)),
        Rename(f"{_FLA}.ffn.key.weight", f"{_OURS}.ffn.up.weight"),
        Rename(f"{_FLA}.ffn.value.weight", f"{_OURS}.ffn.down.weight"),
        *named("model.norm", "final_norm"),
        Rename("lm_head.weight", "head.weight"),
    ),
    duplicates=(("lm_head.weight", "model.embeddings.weight"),),
    target=Target(
        "RWKV7ForCausalLM",
        (*SIZES, "num_heads", "norm_eps", "max_position_embeddings"),
        {
            **{
                f"{name}_low_rank_dim": in_mix(f"{name}_rank")
                for name in ("decay", "a", "v", "gate")
            },
            "head_dim": in_mix("head_dim"),
            "hidden_act": lambda config: "sqrelu",
        },
        opened_by="flash-linear-attention",
    ),
)

FAMILY = Family(
    name="rwkv7",
    harmless=("use_l2warp",),
    summary="recurrent: delta-rule time mixing with a side stream of layer 0's values",
    model_types=("rwkv7", "rwkv7_fla"),
    architectures=("RWKV7ForCausalLM",),
    configure=_configure,
    layouts=(_HF, _BLINK),
    recognise=_recognise,
    text=RWKV,
)
