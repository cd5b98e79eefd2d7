"""Why one family cannot say what another has, in words: from the fields in which two models differ.

Nothing is listed by family. A difference is what a model has and what the target reads instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

from laminogram.convert.changes import each_layer
from laminogram.families.base import KINDS
from laminogram.stack.config import AttentionConfig, LayerConfig, MLPConfig, RopeConfig, StackConfig
from laminogram.stack.norms import ACTIVATIONS

# Kinds whose frequencies do not ask for the trained length.
_FIXED = ("default", "linear", "llama3", "proportional")

_BLOCKS = {
    "pre": "norms before each mixer alone",
    "post": "norms after the residual sum",
    "sandwich": "norms before and after each mixer",
    "parallel": "mixers side by side on one input",
}
_NORMS = {"rms": "RMSNorm", "layer": "LayerNorm"}
# What a field that is on, or holds a number, gives a model.
_FEATURES = {
    "attn.qk_norm": "qk-norm",
    "attn.alibi": "ALiBi slopes",
    "attn.rope": "rotary positions",
    "attn.window": "a sliding window",
    "attn.log_n": "queries scaled by the logarithm of their place",
    "attn.qkv_bias": "biases on q, k and v",
    "attn.o_bias": "a bias on the attention's output",
    "attn.initial_state": "tuned initial states",
    "attn.gate": "a gate on the time mixing",
    "attn.causal": "attention to the past alone",
    "ffn.gated": "a gated feed-forward network",
    "ffn.bias": "biases in the feed-forward network",
    "norm.bias": "biases in norms",
    "embedding.positions": "learned positions",
    "embedding.types": "token types",
    "embedding.norm": "a norm on the embedding",
    "final_norm": "a final norm",
    "head.tied": "a head tied to the embedding",
    "head.normalised": "a head normalised at every run",
    "head.bias": "a bias on the head",
    "head.transform": "a transformed head",
    "score": "a score instead of a language-model head",
}


class Difference(NamedTuple):
    """A field in which two models differ: what the model has, and what the target reads."""

    path: str
    has: Any
    reads: Any


def comparable(config: StackConfig) -> StackConfig:
    """The model without what leaves its mathematics alone: names, sources, aliases."""
    return replace(
        each_layer(config, _plain_layer),
        family="",
        source={},
        limits=(),
        max_position_embeddings=None,
        bos_token_id=None,
        eos_token_ids=(),
    )


def _plain_layer(layer: LayerConfig) -> LayerConfig:
    attn, ffn = layer.attn, layer.ffn
    if isinstance(attn, AttentionConfig):
        usual = attn.head_dim**-0.5
        attn = replace(
            attn,
            rope=None if attn.rope is None else _plain_rope(attn.rope),
            scale=None if attn.scale == usual else attn.scale,
        )
    if isinstance(ffn, MLPConfig):
        same = [name for name, one in ACTIVATIONS.items() if one is ACTIVATIONS[ffn.activation]]
        ffn = replace(ffn, activation=min(same))
    return replace(layer, attn=attn, ffn=ffn)


def _plain_rope(rope: RopeConfig) -> RopeConfig:
    parameters = {name: value for name, value in rope.parameters.items() if value is not None}
    length = 0 if rope.kind in _FIXED else rope.max_position_embeddings
    return replace(rope, parameters=parameters, max_position_embeddings=length)


def differences(config: StackConfig, found: StackConfig) -> list[Difference]:
    """Where the target reads another model than the one that it was told, each field once."""
    mine, theirs = comparable(config), comparable(found)
    seen: dict[str, Difference] = {}
    for name in (one.name for one in fields(StackConfig) if one.name != "layers"):
        for each in _compare(name, getattr(mine, name), getattr(theirs, name)):
            seen.setdefault(each.path, each)
    if len(mine.layers) != len(theirs.layers):
        seen["layers"] = Difference("layers", len(mine.layers), len(theirs.layers))
    compared: set[tuple[int, int]] = set()
    for one, other in zip(mine.layers, theirs.layers):
        if (id(one), id(other)) in compared:
            continue
        compared.add((id(one), id(other)))
        for each in _compare("", one, other):
            seen.setdefault(each.path, each)
    return list(seen.values())


def _compare(path: str, mine: Any, theirs: Any) -> Iterator[Difference]:
    if mine == theirs:
        return
    if is_dataclass(mine) and type(mine) is type(theirs) and not isinstance(mine, RopeConfig):
        for one in fields(mine):
            name = f"{path}.{one.name}" if path else one.name
            yield from _compare(name, getattr(mine, one.name), getattr(theirs, one.name))
    else:
        yield Difference(path, mine, theirs)


def reason(different: Difference, source: str, target: str) -> str:
    """One difference as a sentence: "qwen3 has qk-norm, which llama cannot express"."""
    path, has, reads = different
    path = path.replace("final_norm.", "norm.")
    if path in _FEATURES and bool(has) != bool(reads):
        what = _FEATURES[path]
        if has:
            return f"{source} has {what}, which {target} cannot express"
        return f"{target} always has {what}, which {source} has not"
    return f"{source} has {_said(path, has)} where {target} has {_said(path, reads)}"


def _said(path: str, value: Any) -> str:
    if path == "block":
        return _BLOCKS[value]
    if path.endswith("norm.kind"):
        return _NORMS[value]
    if path in ("attn", "ffn"):
        return KINDS[value.kind]
    if isinstance(value, RopeConfig):
        text = f"the rotary embedding {value.kind!r} of {value.rotary_dims} channels"
        return f"{text}, base {value.theta:g}"
    if path in _FEATURES and isinstance(value, int | float) and not isinstance(value, bool):
        return f"{_FEATURES[path]} ({value:g})"
    return f"{path} {value!r}"
