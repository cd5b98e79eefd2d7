"""RWKV-6 "Finch": BlinkDL's names, those of the hub's remote code, and flash-linear-attention's.

Names and formulas of BlinkDL's files were compared with the `rwkv` package; those of
"RWKV/rwkv-6-world" and of flash-linear-attention with their published modelling code only. The
latter normalises each head's answer with `norm_eps` where the model was trained with 64 times it:
for a converted model, `group_norm_eps=64e-5` computes what it was trained to.
"""

from __future__ import annotations

from typing import Any

from laminogram.families._blink import (
    LAYER,
    STATE,
    generation,
    has_tuned_state,
    layer_count,
    refuse_converted,
    size,
)
from laminogram.families._finch_fla import finch_fla
from laminogram.families._rwkv import BLINK, HF, OURS, Tree, hub_target, letters, mixes, shared
from laminogram.families._text import RWKV
from laminogram.families.base import (
    PTH,
    Family,
    Fields,
    Halved,
    Layout,
    Rename,
    Shapes,
    Squeeze,
    named,
)
from laminogram.stack.config import (
    ChannelMix6Config,
    EmbeddingConfig,
    HeadConfig,
    LayerConfig,
    NormConfig,
    StackConfig,
    TimeMix6Config,
)

_WIDE = 4096


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    fields.raw("rescale_every")  # how the remote code runs the model, not what it computes
    fields.raw("num_attention_heads")  # published files hold a head size here; nothing reads it
    hidden = fields.integer("hidden_size")
    count, inner = fields.optional("num_heads"), int(3.5 * hidden) // 32 * 32 or None
    norm_eps = fields.number("layer_norm_epsilon", fields.number("norm_eps", 1e-5))
    eps = 1e-5 * fields.number("head_size_divisor", 8) ** 2
    if count is not None:  # only fla's configurations have it
        _check_fla(fields)
        eps = norm_eps
        inner = 32 * ((int(hidden * fields.number("hidden_ratio", 3.5)) + 31) // 32)
    width = fields.integer("attention_hidden_size", hidden)
    head_dim = fields.integer("head_size", width // count if count else 64)
    if width % head_dim or (count and width // head_dim != count):
        fields.refuse("head_size", head_dim, f"a divisor of the attention size, {width}")
    norm = NormConfig(kind="layer", eps=norm_eps, bias=True)
    eps = fields.number("group_norm_eps", eps)
    channel = ChannelMix6Config(intermediate_size=fields.integer("intermediate_size", inner))
    layers = []
    for index in range(fields.integer("num_hidden_layers")):
        mix_rank, decay_rank = _ranks(fields, shapes, index)
        mix = TimeMix6Config(
            num_attention_heads=width // head_dim,
            head_dim=head_dim,
            mix_rank=mix_rank,
            decay_rank=decay_rank,
            group_norm_eps=eps,
            initial_state=has_tuned_state(shapes, index),
        )
        layers.append(LayerConfig(block="pre", norm=norm, attn=mix, ffn=channel))
    return StackConfig(
        family="rwkv6",
        hidden_size=hidden,
        vocab_size=fields.integer("vocab_size"),
        layers=tuple(layers),
        embedding=EmbeddingConfig(norm=norm),
        final_norm=norm if count else NormConfig(kind="layer", eps=1e-5, bias=True),
        head=HeadConfig(tied=fields.flag("tie_word_embeddings", False)),
        max_position_embeddings=fields.optional("max_position_embeddings"),
        bos_token_id=fields.token("bos_token_id"),
        eos_token_ids=fields.tokens("eos_token_id"),
    )


def _check_fla(fields: Fields) -> None:
    fields.only("hidden_act", "sqrelu")
    fields.only("norm_first", True)
    fields.only("norm_bias", True)
    fields.only("attn_mode", "chunk", "fused_recurrent")
    for name, default in (("expand_k", 0.5), ("expand_v", 1.0)):
        if fields.number(name, default) != 1:
            fields.refuse(name, fields.raw(name, default), "1: heads as wide as the model")
    if fields.raw("attn") is not None:
        fields.refuse("attn", fields.raw("attn"), "null: hybrids with attention are not supported")


def _ranks(fields: Fields, shapes: Shapes | None, layer: int) -> tuple[int, int]:
    """The ranks of one token shift and of the decay: from the tensors where there are any, else
    from the fields, else those of the published models, of which the wide ones have them doubled.
    """
    wide = 2 if fields.integer("hidden_size") == _WIDE and fields.raw("num_heads") is None else 1
    found = [
        fields.integer("proj_low_rank_dim", 32 * wide),
        fields.integer("gate_low_rank_dim", 64 * wide),
    ]
    for tree in (BLINK, HF):
        prefix = tree.attention.format(i=layer)
        for at, (name, parts) in enumerate((("time_maa_w1", 5), ("time_decay_w1", 1))):
            shape = (shapes or {}).get(f"{prefix}.{name}", ())
            if len(shape) == 2:
                found[at] = shape[1] // parts
    return found[0], found[1]


def _recognise(shapes: Shapes) -> dict[str, Any] | None:
    if generation(shapes) != 6:
        return None
    refuse_converted(shapes)
    count, head_dim = (size(shapes, "blocks.0.att.time_faaaa", axis) for axis in (0, 1))
    return {
        "model_type": "rwkv6",
        "vocab_size": size(shapes, "emb.weight", 0),
        "hidden_size": size(shapes, "emb.weight", 1),
        "attention_hidden_size": count * head_dim,
        "head_size": head_dim,
        "intermediate_size": size(shapes, "blocks.0.ffn.key.weight", 0),
        "num_hidden_layers": layer_count(shapes, f"{LAYER}.att.time_faaaa"),
        "layer_norm_epsilon": 1e-5,
        "group_norm_eps": 64e-5,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def _layout(name: str, tree: Tree, **more: Any) -> Layout:
    halved = (Halved("rescaled"),) if tree is HF else ()
    theirs = tree.attention
    return Layout(
        name=name,
        marks=(tree.embedding, f"{theirs}.time_maa_x"),
        rules=(
            *shared(tree, (), halved),
            *mixes(f"{theirs}.time_maa_", "attn", letters("xwkvrg")),
            *mixes(f"{tree.ffn}.time_maa_", "ffn", letters("kr")),
            Rename(f"{theirs}.time_maa_w1", f"{OURS}.attn.mix1"),
            Rename(f"{theirs}.time_maa_w2", f"{OURS}.attn.mix2"),
            Rename(f"{theirs}.time_decay", f"{OURS}.attn.w0", Squeeze()),
            Rename(f"{theirs}.time_decay_w1", f"{OURS}.attn.w1"),
            Rename(f"{theirs}.time_decay_w2", f"{OURS}.attn.w2"),
            Rename(f"{theirs}.time_faaaa", f"{OURS}.attn.bonus"),
            *named(f"{theirs}.ln_x", f"{OURS}.attn.out_norm"),
            *((STATE,) if tree is BLINK else ()),
        ),
        **more,
    )


FAMILY = Family(
    name="rwkv6",
    summary="recurrent: matrix state with a decay and token shifts that depend on the input",
    model_types=("rwkv6",),
    architectures=("Rwkv6ForCausalLM", "RWKV6ForCausalLM"),
    harmless=("use_l2warp",),
    configure=_configure,
    layouts=(
        _layout(
            "hf",
            HF,
            duplicates=(("head.weight", HF.embedding),),
            options=("rescaled",),
            target=hub_target(
                "Rwkv6ForCausalLM", proj_low_rank_dim="mix_rank", gate_low_rank_dim="decay_rank"
            ),
        ),
        finch_fla(),
        _layout("blink", BLINK, target=PTH),
    ),
    recognise=_recognise,
    text=RWKV,
)
