"""The changes that there are, each proposed where a model has what another family may lack.

A proposal gets the model, what the target would read instead (None where it cannot read it at all)
and the source's weights (None where only configurations are tried).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from laminogram.convert.changes import Change, Fetch, Grade, Maker, each_layer, in_layers
from laminogram.convert.rotary import rotary_changes
from laminogram.stack.config import AttentionConfig, LayerConfig, MLPConfig, StackConfig

_LAYER = "layers.{i}"
# Which products a flag of biases speaks of, and what they are called.
_BIASES = {
    ("attn", "qkv_bias"): (("attn.q", "attn.k", "attn.v"), "q, k and v"),
    ("attn", "o_bias"): (("attn.o",), "the attention's output"),
    ("ffn", "bias"): (("ffn.gate", "ffn.up", "ffn.down"), "the feed-forward network"),
}


class Stored(Protocol):
    """Weights by our names, as they are stored."""

    def stored(self, name: str) -> Tensor:
        """The tensor of that name."""
        ...

    def __contains__(self, name: object) -> bool: ...


Proposal = Callable[[StackConfig, StackConfig | None, Stored | None], Iterator[Change]]


def drop_biases(
    config: StackConfig, found: StackConfig | None, weights: Stored | None
) -> Iterator[Change]:
    """Without biases: exact where they are all zero, else a loss."""
    for (part, flag), (_, where) in _BIASES.items():
        names, largest = _names(config, part, flag), None
        if not _all(config, part, flag):
            continue
        if weights is not None:
            if names[0] not in weights:
                continue  # a change before this one added them
            largest = max(float(weights.stored(name).abs().max()) for name in names)
        if largest == 0:
            what, found_grade = f"biases of {where}, all zero, left out", Grade.SAME_BYTES
        else:
            size = "" if largest is None else f" of up to {largest:.3g}"
            what, found_grade = f"biases{size} of {where} dropped", Grade.LOSSY
        changed = in_layers(config, part, **{flag: False})
        yield Change(what, found_grade, changed, tidy=largest == 0)


def add_biases(
    config: StackConfig, found: StackConfig | None, weights: Stored | None
) -> Iterator[Change]:
    """Biases of zero where the target always has some."""
    for (part, flag), (products, where) in _BIASES.items():
        if _kind(config, part) and not any(getattr(getattr(x, part), flag) for x in config.layers):
            makes = {f"{_LAYER}.{product}.bias": _zero_bias for product in products}
            changed = in_layers(config, part, **{flag: True})
            yield Change(f"biases of zero for {where}", Grade.SAME_BYTES, changed, makes)


def repeat_keys(
    config: StackConfig, found: StackConfig | None, weights: Stored | None
) -> Iterator[Change]:
    """Keys and values once for every head, where the target has no groups of heads."""
    if not _kind(config, "attn"):
        return
    attn = config.layers[0].attn
    assert isinstance(attn, AttentionConfig)
    heads, keys = attn.num_attention_heads, attn.num_key_value_heads
    if heads == keys or not _alike(config):
        return

    def repeated(name: str, fetch: Fetch) -> Tensor:
        tensor = fetch(name)
        rows = tensor.reshape(keys, -1, *tensor.shape[1:])
        return rows.repeat_interleave(heads // keys, 0).reshape(-1, *tensor.shape[1:])

    names = [f"{_LAYER}.attn.{x}.{part}" for x in "kv" for part in ("weight", "bias")]
    changed = in_layers(config, "attn", num_key_value_heads=heads)
    what = f"keys and values repeated for each of {heads // keys} heads"
    yield Change(what, Grade.SAME_BYTES, changed, dict.fromkeys(names, repeated))


def untie(
    config: StackConfig, found: StackConfig | None, weights: Stored | None
) -> Iterator[Change]:
    """The head as a tensor of its own: the file grows by it."""
    if config.head.tied:
        changed = replace(config, head=replace(config.head, tied=False))
        makes: dict[str, Maker] = {
            "head.weight": lambda name, fetch: fetch("embed.tokens.weight").clone()
        }
        yield Change("the head untied from the embedding", Grade.SAME_BYTES, changed, makes)


def scale_embedding(
    config: StackConfig, found: StackConfig | None, weights: Stored | None
) -> Iterator[Change]:
    """The factor on embeddings folded into the table; a tied head keeps the table as it was."""
    wanted = 1.0 if found is None else found.embedding.scale
    factor = config.embedding.scale / wanted
    if factor == 1:
        return
    changed = replace(config, embedding=replace(config.embedding, scale=wanted))
    makes: dict[str, Maker] = {"embed.tokens.weight": _times(factor)}
    what = f"embeddings multiplied by {factor:.6g}"
    if config.head.tied:
        changed = replace(changed, head=replace(config.head, tied=False))
        makes["head.weight"] = lambda name, fetch: fetch("embed.tokens.weight").clone()
        what += ", and the head untied from them"
    yield Change(what, Grade.EXACT, changed, makes)


def offset_norms(
    config: StackConfig, found: StackConfig | None, weights: Stored | None
) -> Iterator[Change]:
    """Weights of norms counted from another origin: Gemma's from one, all others from zero."""
    have = config.layers[0].norm.offset
    want = 0.0 if found is None else found.layers[0].norm.offset
    if have == want or config.final_norm is None or config.final_norm.offset != have:
        return

    def moved(name: str, fetch: Fetch) -> Tensor:
        tensor = fetch(name)
        return (_wide(tensor) + (have - want)).to(tensor.dtype)

    names = ("attn_norm", "ffn_norm", "attn_post_norm", "ffn_post_norm")
    places = ("final_norm.weight", *(f"{_LAYER}.{name}.weight" for name in names))
    changed = in_layers(config, "norm", offset=want)
    changed = replace(changed, final_norm=replace(config.final_norm, offset=want))
    what = f"{have - want:+g} in the weights of norms"
    yield Change(what, Grade.EXACT, changed, dict.fromkeys(places, moved))


def normalise_head(
    config: StackConfig, found: StackConfig | None, weights: Stored | None
) -> Iterator[Change]:
    """The head's rows brought to length one once, instead of at every run."""
    if not config.head.normalised:
        return

    def unit(name: str, fetch: Fetch) -> Tensor:
        tensor = fetch(name)
        wide = _wide(tensor)
        return (wide / wide.norm(dim=-1, keepdim=True).clamp(min=1e-12)).to(tensor.dtype)

    changed = replace(config, head=replace(config.head, normalised=False))
    what = "rows of the head brought to length one"
    yield Change(what, Grade.EXACT, changed, {"head.weight": unit})


def fold_scale(
    config: StackConfig, found: StackConfig | None, weights: Stored | None
) -> Iterator[Change]:
    """The factor on attention scores folded into the queries."""
    if not _kind(config, "attn") or not _alike(config):
        return
    attn = config.layers[0].attn
    assert isinstance(attn, AttentionConfig)
    target = found.layers[0].attn if found is not None else None
    usual = attn.head_dim**-0.5
    want = target.scale if isinstance(target, AttentionConfig) else None
    factor = (attn.scale or usual) / (want or usual)
    if attn.scale == want or attn.qk_norm is not None:
        return
    makes = dict.fromkeys((f"{_LAYER}.attn.q.weight", f"{_LAYER}.attn.q.bias"), _times(factor))
    changed = in_layers(config, "attn", scale=want)
    yield Change(f"queries multiplied by {factor:.6g}", Grade.EXACT, changed, makes)


def drop_windows(
    config: StackConfig, found: StackConfig | None, weights: Stored | None
) -> Iterator[Change]:
    """Without windows: the same where no text is longer than them, else a loss."""
    if not _kind(config, "attn"):
        return
    widths = [width for layer in config.layers if (width := getattr(layer.attn, "window", None))]
    if not widths:
        return
    changed, trained = in_layers(config, "attn", window=None), config.max_position_embeddings
    if trained is not None and min(widths) >= trained:
        what = f"windows of {min(widths)} tokens, longer than any text, left out"
        yield Change(what, Grade.SAME_BYTES, changed, limit=trained)
    else:
        what = f"attention windows dropped: texts beyond {min(widths)} tokens are read otherwise"
        yield Change(what, Grade.LOSSY, changed)


def drop_states(
    config: StackConfig, found: StackConfig | None, weights: Stored | None
) -> Iterator[Change]:
    """Without a recurrent layer's tuned state before the first token."""
    if any(getattr(layer.attn, "initial_state", False) for layer in config.layers):
        changed = each_layer(config, _stateless)
        yield Change("tuned initial states dropped", Grade.LOSSY, changed)


def fold_group_norm(
    config: StackConfig, found: StackConfig | None, weights: Stored | None
) -> Iterator[Change]:
    """A head's answer, linear in its values, is normalised: a factor on both answer and epsilon's
    root leaves it as it is. Not where values go elsewhere too (RWKV-7's bonus follows the norm)."""
    if found is None or not all(x.attn.kind in _FOLDABLE for x in (*config.layers, *found.layers)):
        return
    have, want = (_epsilon(config), _epsilon(found))
    factor = (want / have) ** 0.5
    if have == want:
        return
    names = (f"{_LAYER}.attn.v.weight", f"{_LAYER}.attn.initial_state")
    changed = in_layers(config, "attn", group_norm_eps=want)
    what = f"values multiplied by {factor:.6g}, for heads are normalised with epsilon {want:g}"
    yield Change(what, Grade.EXACT, changed, dict.fromkeys(names, _times(factor)))


_FOLDABLE = ("rwkv5_time", "rwkv6_time")
CATALOGUE: tuple[Proposal, ...] = (
    rotary_changes,
    drop_biases,
    add_biases,
    untie,
    scale_embedding,
    offset_norms,
    normalise_head,
    drop_windows,
    fold_group_norm,
    fold_scale,
    repeat_keys,
    drop_states,
)

TOUCHED = frozenset(
    {
        *(f"{part}.{flag}" for part, flag in _BIASES),
        *(f"attn.{name}" for name in ("rope", "log_n", "window", "scale", "num_key_value_heads")),
        *(f"attn.{name}" for name in ("initial_state", "group_norm_eps")),
        *("norm.offset", "final_norm.offset"),
        *("embedding.scale", "head.tied", "head.normalised"),
    }
)
"""The fields that some change can alter; a difference in any other is the end of it."""


def _stateless(layer: LayerConfig) -> LayerConfig:
    attn: Any = layer.attn
    return replace(layer, attn=replace(attn, initial_state=False))


def _epsilon(config: StackConfig) -> float:
    attn: Any = config.layers[0].attn
    return float(attn.group_norm_eps)


def _times(factor: float) -> Maker:
    def make(name: str, fetch: Fetch) -> Tensor:
        tensor = fetch(name)
        return (_wide(tensor) * factor).to(tensor.dtype)

    return make


def _zero_bias(name: str, fetch: Fetch) -> Tensor:
    weight = fetch(name.removesuffix("bias") + "weight")
    return weight.new_zeros(weight.shape[0])


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _kind(config: StackConfig, part: str) -> bool:
    """Whether every layer has softmax attention, or a plain network, for this part."""
    kind = AttentionConfig if part == "attn" else MLPConfig
    return all(isinstance(getattr(layer, part), kind) for layer in config.layers)


def _alike(config: StackConfig) -> bool:
    """Whether all layers attend alike but for their windows."""
    found: list[Any] = [layer.attn for layer in config.layers]
    return len({replace(attn, window=None, rope=None) for attn in found}) == 1


def _all(config: StackConfig, part: str, flag: str) -> bool:
    return _kind(config, part) and all(getattr(getattr(x, part), flag) for x in config.layers)


def _names(config: StackConfig, part: str, flag: str) -> list[str]:
    """Our names of a kind of biases, over all layers."""
    gated = getattr(config.layers[0].ffn, "gated", True)
    products = [x for x in _BIASES[part, flag][0] if gated or x != "ffn.gate"]
    return [f"layers.{i}.{x}.bias" for i in range(config.num_layers) for x in products]
