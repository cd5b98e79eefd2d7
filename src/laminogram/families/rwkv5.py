"""RWKV-5 "Eagle", versions 5.0 to 5.2: BlinkDL's names, and those of the hub's remote code.

Which version a file holds is read from its tensors: a gate (5.1), a decay and a bonus for every
channel instead of every head (5.2), and the bonus under `time_first` (its logarithm) or
`time_faaaa`. Names and formulas of BlinkDL's files were compared with the `rwkv` package, those of
"RWKV/rwkv-5-world" with its published modelling code only. Its first form left the head size
divisor out of the group norm's epsilon: `group_norm_eps=1e-5` computes that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from laminogram.families._blink import (
    LAYER,
    STATE,
    generation,
    has_tuned_state,
    layer_count,
    refuse_converted,
    size,
)
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
    named,
)
from laminogram.stack.config import (
    ChannelMix4Config,
    EmbeddingConfig,
    HeadConfig,
    LayerConfig,
    NormConfig,
    StackConfig,
    TimeMix5Config,
)


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    fields.raw("rescale_every")  # how the remote code runs the model, not what it computes
    fields.raw("num_attention_heads")  # published files hold a head size here; nothing reads it
    hidden = fields.integer("hidden_size")
    width = fields.integer("attention_hidden_size", hidden)
    head_dim = fields.integer("head_size", 64)
    if width % head_dim:
        fields.refuse("head_size", head_dim, f"a divisor of the attention size, {width}")
    divisor = fields.number("head_size_divisor", 8)
    eps = fields.number("group_norm_eps", 1e-5 * divisor**2)
    inner = fields.integer("intermediate_size", int(3.5 * hidden) // 32 * 32 or None)
    norm = NormConfig(kind="layer", eps=fields.number("layer_norm_epsilon", 1e-5), bias=True)
    versions = [_version(shapes, index) for index in range(fields.integer("num_hidden_layers"))]
    layers = tuple(
        LayerConfig(
            block="pre",
            norm=norm,
            attn=TimeMix5Config(
                num_attention_heads=width // head_dim,
                head_dim=head_dim,
                group_norm_eps=eps,
                initial_state=has_tuned_state(shapes, index),
                gate=versions[index].gate,
                per_channel=versions[index].per_channel,
                log_bonus=versions[index].log_bonus,
            ),
            ffn=ChannelMix4Config(intermediate_size=inner),
        )
        for index in range(len(versions))
    )
    return StackConfig(
        family="rwkv5",
        hidden_size=hidden,
        vocab_size=fields.integer("vocab_size"),
        layers=layers,
        embedding=EmbeddingConfig(norm=norm),
        final_norm=NormConfig(kind="layer", eps=1e-5, bias=True),
        head=HeadConfig(tied=fields.flag("tie_word_embeddings", False)),
        bos_token_id=fields.token("bos_token_id"),
        eos_token_ids=fields.tokens("eos_token_id"),
    )


class Version(NamedTuple):
    """What tells the versions apart, see `TimeMix5Config`; 5.2 unless told otherwise."""

    gate: bool = True
    per_channel: bool = True
    log_bonus: bool = False


def _version(shapes: Shapes | None, layer: int) -> Version:
    for tree in (BLINK, HF):
        prefix = tree.attention.format(i=layer)
        decay = (shapes or {}).get(f"{prefix}.time_decay")
        if shapes is not None and decay is not None:
            return Version(
                gate=f"{prefix}.gate.weight" in shapes,
                per_channel=len(decay) > 1,
                log_bonus=f"{prefix}.time_first" in shapes,
            )
    return Version()


def _recognise(shapes: Shapes) -> dict[str, Any] | None:
    if generation(shapes) != 5:
        return None
    refuse_converted(shapes)
    width = size(shapes, "blocks.0.att.key.weight", 0)
    return {
        "model_type": "rwkv5",
        "vocab_size": size(shapes, "emb.weight", 0),
        "hidden_size": size(shapes, "emb.weight", 1),
        "attention_hidden_size": width,
        "head_size": width // max(1, size(shapes, "blocks.0.att.time_decay", 0)) or width,
        "intermediate_size": size(shapes, "blocks.0.ffn.key.weight", 0),
        "num_hidden_layers": layer_count(shapes, f"{LAYER}.att.time_decay"),
        "layer_norm_epsilon": 1e-5,
        "group_norm_eps": 64e-5,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def _layout(name: str, tree: Tree, bonus: str, shifts: dict[str, str], **more: Any) -> Layout:
    halved = (Halved("rescaled"),) if tree is HF else ()
    channel = {theirs: ours for theirs, ours in shifts.items() if ours in "kr"}
    return Layout(
        name=name,
        marks=(tree.embedding, f"{tree.attention}.{bonus}", f"{tree.attention}.ln_x.weight"),
        rules=(
            *shared(tree, (), halved),
            Rename(f"{tree.attention}.time_decay", f"{OURS}.attn.decay"),
            Rename(f"{tree.attention}.{bonus}", f"{OURS}.attn.bonus"),
            *mixes(f"{tree.attention}.time_mix_", "attn", shifts),
            *mixes(f"{tree.ffn}.time_mix_", "ffn", channel),
            *named(f"{tree.attention}.ln_x", f"{OURS}.attn.out_norm"),
            *((STATE,) if tree is BLINK else ()),
        ),
        **more,
    )


_WORDS = {"key": "k", "value": "v", "receptance": "r", "gate": "g"}
FAMILY = Family(
    name="rwkv5",
    summary="recurrent: matrix state with a learned decay, squared-ReLU channel mixing",
    model_types=("rwkv5",),
    architectures=("Rwkv5ForCausalLM",),
    configure=_configure,
    layouts=(
        _layout(
            "hf",
            HF,
            "time_faaaa",
            _WORDS,
            duplicates=(("head.weight", HF.embedding),),
            options=("rescaled",),
            target=hub_target("Rwkv5ForCausalLM"),
        ),
        _layout("blink", BLINK, "time_faaaa", letters("kvrg"), target=PTH),
        _layout("blink-first", BLINK, "time_first", letters("kvrg"), target=PTH),
    ),
    recognise=_recognise,
    text=RWKV,
)
