"""Rotary embeddings said in another way: part of a head as a proportion of the whole, and scalings
that begin only beyond the trained length left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from laminogram.convert.changes import Change, Fetch, Grade, Maker, each_layer
from laminogram.errors import ConfigError
from laminogram.stack.config import AttentionConfig, LayerConfig, RopeConfig, StackConfig
from laminogram.stack.rope import inverse_frequencies

_PARTIAL = ("default", "linear")
_ROWS = [f"layers.{{i}}.attn.{x}.{part}" for x in "qk" for part in ("weight", "bias")]
_NORMS = [f"layers.{{i}}.attn.{x}_norm.weight" for x in "qk"]


def rotary_changes(config: StackConfig, found: Any = None, weights: Any = None) -> Iterator[Change]:
    """The other ways to say the rotary embedding that all layers share."""
    attn = config.layers[0].attn
    turned = getattr(attn, "rope", None)
    if not isinstance(attn, AttentionConfig) or turned is None:
        return
    if any(getattr(layer.attn, "rope", None) != turned for layer in config.layers):
        return
    yield from _within_training(config, attn, turned)
    if attn.head_dim % 2 == 0:
        if turned.kind in _PARTIAL and turned.rotary_dims < attn.head_dim:
            yield _whole(config, attn, turned)
        if turned.kind == "proportional":
            yield from _part(config, attn, turned)


def _whole(config: StackConfig, attn: AttentionConfig, turned: RopeConfig) -> Change:
    """The first R channels of D turn: pair j of R/2 by theta ** (-2j / R), which among D/2 pairs
    over the whole head is (theta ** (D / R)) ** (-2j / D)."""
    dims, head = turned.rotary_dims, attn.head_dim
    rope = RopeConfig(
        theta=turned.theta ** (head / dims),
        rotary_dims=head,
        kind="proportional",
        parameters={**turned.parameters, "partial_rotary_factor": dims / head},
        max_position_embeddings=turned.max_position_embeddings,
    )
    what = f"{dims} of {head} channels of each head turn: heads in another order, base to the power"
    return _reordered(config, turned, rope, what + f" {head / dims:g}", _order(dims, head))


def _part(config: StackConfig, attn: AttentionConfig, turned: RopeConfig) -> Iterator[Change]:
    """The inverse."""
    head, share = attn.head_dim, float(turned.parameters.get("partial_rotary_factor", 1.0))
    dims = 2 * int(share * head // 2)
    if not 0 < dims < head:
        return
    kept = {k: v for k, v in turned.parameters.items() if k != "partial_rotary_factor"}
    rope = RopeConfig(
        theta=turned.theta ** (dims / head),
        rotary_dims=dims,
        kind="linear" if kept.get("factor", 1.0) != 1 else "default",
        parameters=kept if kept.get("factor", 1.0) != 1 else {},
        max_position_embeddings=turned.max_position_embeddings,
    )
    what = f"the {dims} turned channels of each head first, base to the power {dims / head:g}"
    yield _reordered(config, turned, rope, what, _order(dims, head).argsort())


def _order(dims: int, head: int) -> Tensor:
    """Where each channel of a head comes from, when its first `dims`, turned as halves, become
    pairs of the whole head: (j, j + R/2) stand at (j, j + D/2), the still ones fill the rest."""
    half, still = dims // 2, torch.arange(dims, head)
    first, second = still[: (head - dims) // 2], still[(head - dims) // 2 :]
    return torch.cat([torch.arange(half), first, torch.arange(half, dims), second])


def _reordered(
    config: StackConfig, before: RopeConfig, after: RopeConfig, what: str, order: Tensor
) -> Change:
    def rows(name: str, fetch: Fetch) -> Tensor:
        tensor = fetch(name)
        heads = tensor.reshape(-1, len(order), *tensor.shape[1:])
        return heads[:, order.to(tensor.device)].reshape(tensor.shape)

    makes: dict[str, Maker] = dict.fromkeys([*_ROWS, *_NORMS], rows)
    same = _frequencies(before).equal(_frequencies(after))
    grade = Grade.SAME_BYTES if same else Grade.EXACT
    return Change(what, grade, _turned(config, after), makes, moves=True)


def _frequencies(rope: RopeConfig) -> Tensor:
    """Those of the pairs that turn."""
    found, _ = inverse_frequencies(rope, 1)
    return found[found != 0]


def _within_training(
    config: StackConfig, attn: AttentionConfig, turned: RopeConfig
) -> Iterator[Change]:
    """What changes only beyond the trained length is left out; that length becomes the limit."""
    lengths = []
    if attn.log_n is not None:
        lengths.append(attn.log_n)
    plain = turned
    if turned.kind == "dynamic_log2":
        lengths.append(int(turned.parameters["original_max_position_embeddings"]))
        plain = replace(turned, kind="default", parameters={})
    if turned.kind == "dynamic":
        lengths.append(turned.max_position_embeddings)
        plain = replace(turned, kind="default", parameters={})
    if not lengths:
        return
    trained = min(lengths)
    changed = each_layer(config, lambda layer: _with(layer, rope=plain, log_n=None))
    changed = replace(changed, max_position_embeddings=trained)
    what = f"scalings beyond the trained {trained} tokens left out"
    yield Change(what, Grade.SAME_BYTES, changed, limit=trained)


def _turned(config: StackConfig, rope: RopeConfig) -> StackConfig:
    return each_layer(config, lambda layer: _with(layer, rope=rope))


def _with(layer: LayerConfig, **fields: Any) -> LayerConfig:
    if not isinstance(layer.attn, AttentionConfig):
        raise ConfigError(f"a layer mixes tokens by {layer.attn.kind}, not by attention")
    return replace(layer, attn=replace(layer.attn, **fields))
