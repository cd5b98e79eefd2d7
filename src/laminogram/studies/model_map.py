"""The model map: every part of a stack with its parameters and bytes, and statistics by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import SiteError
from laminogram.probe.card import part_of
from laminogram.probe.program import steps_of
from laminogram.probe.subject import Subject, Text
from laminogram.stack.batch import Batch
from laminogram.stack.config import LayerConfig
from laminogram.stack.quantise import Packed, weights_of
from laminogram.studies.reading import (
    Tables,
    about,
    ids_of,
    names_of,
    read_one,
    walk,
)

_NAMES = {
    "attention": "attention",
    "latent": "latent attention",
    "moe": "mixture of experts",
    "rwkv4_time": "RWKV-4 time mix",
    "rwkv5_time": "RWKV-5 time mix",
    "rwkv6_time": "RWKV-6 time mix",
    "rwkv7_time": "RWKV-7 time mix",
    "rwkv4_channel": "RWKV-4 channel mix",
    "rwkv6_channel": "RWKV-6 channel mix",
    "rwkv7_channel": "RWKV-7 channel mix",
}
_SITES = ("attn_out", "ffn_out", "resid_post")
MEANINGS = {
    "parameters": "how many numbers the layer holds",
    "bytes": "memory of its weights as they are held",
    "weight_rms_attn": "root mean square of the token mixer's weights",
    "weight_rms_ffn": "root mean square of the channel mixer's weights",
    "rms_attn_out": "root mean square of what the token mixer adds to the residual stream",
    "rms_ffn_out": "root mean square of what the channel mixer adds to the residual stream",
    "rms_resid_post": "root mean square of the residual stream that leaves the layer",
    "turn": "1 - cosine of the residual stream entering and leaving the layer, mean over tokens",
}


@dataclass(frozen=True)
class PartRow:
    """One part: kind is `embedding`, `attn`, `ffn`, `norms` or `head`, as in the model's card.

    label: the layer's number, or "embedding", "final norm", "head"; name: what it is ("attention",
    "RWKV-7 time mix", "gated MLP", ...); shape: its tensors as text; layer: None outside of layers.
    """

    label: str
    kind: str
    name: str
    parameters: int
    bytes: int
    shape: str
    layer: int | None = None


@dataclass(frozen=True, eq=False)
class ModelMap:
    """parts: in the order of the forward; labels: one a layer; statistics: name -> (layers,) f64,
    NaN where the plan does not run the layer. steps: for each layer the steps that run it."""

    model: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    labels: tuple[str, ...]
    parts: tuple[PartRow, ...]
    steps: tuple[tuple[int, ...], ...]
    statistics: dict[str, np.ndarray]
    meanings: dict[str, str] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)

    def tables(self) -> Tables:
        """`map`: a row for each part; `map-statistics`: a row for each layer."""
        rows = self.parts
        return {
            "map": {
                key: [getattr(row, key) for row in rows]
                for key in ("label", "layer", "kind", "name", "parameters", "bytes", "shape")
            },
            "map-statistics": {
                "layer": np.arange(len(self.labels)),
                "steps": [", ".join(map(str, steps)) for steps in self.steps],
                **self.statistics,
            },
        }


def model_map(view: Subject, text: Text | None = None) -> ModelMap:
    """The parts of a view's stack, whatever its plan; statistics of its weights, and with a text of
    what its layers say, over every step that runs the layer.

    TokenError for several texts, ConfigError for one beyond the context.
    """
    parts, statistics = _parts(view), _weight_statistics(view)
    batch = None if text is None else read_one(view, text)
    if batch is not None:
        statistics |= _spoken(view, batch)
    ids = () if batch is None else ids_of(batch)
    layers = range(view.config.num_layers)
    return ModelMap(
        model=view.name,
        tokens=names_of(view, ids),
        token_ids=ids,
        labels=tuple(map(str, layers)),
        parts=parts,
        steps=tuple(
            tuple(step for step, at in enumerate(view.plan) if at.layer == layer)
            for layer in layers
        ),
        statistics=statistics,
        meanings={name: MEANINGS[name] for name in statistics},
        manifest=about(view, "map", [] if batch is None else [batch], text=text is not None),
    )


def _parts(view: Subject) -> tuple[PartRow, ...]:
    """Every part in the order of the forward; together they hold every parameter once."""
    found: dict[tuple[int | None, str], dict[str, Tensor | Packed]] = {}
    for path, parameter in weights_of(view.stack):
        layer = int(path.split(".")[1]) if path.startswith("layers.") else None
        found.setdefault((layer, part_of(path)), {})[path] = parameter
    order: list[tuple[int | None, str]] = [(None, "embedding")]
    for layer in range(view.config.num_layers):
        order += [(layer, "norms"), (layer, "attn"), (layer, "ffn")]
    order += [(None, "norms"), (None, "head")]
    if set(found) - set(order):
        raise SiteError(f"the map has no place for {sorted(set(found) - set(order), key=str)}")
    return tuple(
        _row(view, layer, kind, found[layer, kind])
        for layer, kind in order
        if (layer, kind) in found
    ) + _tied(view, found)


def _row(
    view: Subject, layer: int | None, kind: str, tensors: dict[str, Tensor | Packed]
) -> PartRow:
    labels = {"norms": "final norm"}
    depth = 2 if layer is not None and kind == "norms" else 3 if layer is not None else 1
    return PartRow(
        label=labels.get(kind, kind) if layer is None else str(layer),
        kind=kind,
        name=_name(kind, None if layer is None else view.config.layers[layer]),
        parameters=sum(x.numel() for x in tensors.values()),
        bytes=sum(x.nbytes for x in tensors.values()),
        shape=", ".join(
            f"{'.'.join(path.split('.')[depth:])} {'x'.join(map(str, x.shape))}"
            for path, x in tensors.items()
        ),
        layer=layer,
    )


def _tied(view: Subject, found: Iterable[tuple[int | None, str]]) -> tuple[PartRow, ...]:
    """The head that has no parameter of its own, so that it can be drawn."""
    if not view.config.head.present or (None, "head") in found:
        return ()
    return (PartRow("head", "head", "head, tied to the embedding", 0, 0, ""),)


def _name(kind: str, layer: LayerConfig | None) -> str:
    if layer is None:
        return {"norms": "final norm"}.get(kind, kind)
    if kind == "attn":
        return _NAMES.get(layer.attn.kind, layer.attn.kind)
    if kind == "ffn":
        if layer.ffn.kind == "mlp":
            return "gated MLP" if layer.ffn.gated else "MLP"
        return _NAMES.get(layer.ffn.kind, layer.ffn.kind)
    return kind


def _weight_statistics(view: Subject) -> dict[str, np.ndarray]:
    """What needs no text, (layers,)."""
    count = view.config.num_layers
    numbers = {name: np.zeros(count) for name in ("parameters", "bytes")}
    squares = {kind: np.zeros((2, count)) for kind in ("attn", "ffn")}
    for layer in range(count):
        for path, x in weights_of(view.stack.layer(layer)):
            numbers["parameters"][layer] += x.numel()
            numbers["bytes"][layer] += x.nbytes
            kind = part_of(f"layers.{layer}.{path}")
            if kind in squares:
                dense = x.dense() if isinstance(x, Packed) else x.detach()
                square = float(torch.linalg.vector_norm(dense, dtype=torch.float64)) ** 2
                squares[kind][:, layer] += square, x.numel()
    return numbers | {f"weight_rms_{kind}": _rms(*sums) for kind, sums in squares.items()}


def _rms(squares: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.sqrt(_mean(squares, counts))


def _mean(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _spoken(view: Subject, batch: Batch) -> dict[str, np.ndarray]:
    """What the layers say of a text, (layers,): over all tokens of every step that runs a layer."""
    sums = {site: np.zeros((2, view.config.num_layers)) for site in (*_SITES, "turn")}
    before: list[Tensor] = []
    reads: dict[int, set[str]] = {}
    for site in (*_SITES, "resid_pre"):
        for step in _steps_with(view, site):
            reads.setdefault(step, set()).add(site)

    def keep(site: str, step: int, x: Tensor) -> None:
        if site == "resid_pre":
            before[:] = [x]
            return
        layer = view.plan.steps[step].layer
        square = float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2
        sums[site][:, layer] += square, x.numel()
        if site == "resid_post":
            cosine = torch.cosine_similarity(before.pop().double(), x.double(), dim=-1)
            sums["turn"][:, layer] += float((1 - cosine).sum()), cosine.numel()

    walk(view, batch, reads, keep)
    turn, counts = sums.pop("turn")
    found = {f"rms_{site}": _rms(*one) for site, one in sums.items()}
    return found | {"turn": _mean(turn, counts)}


def _steps_with(view: Subject, site: str) -> list[int]:
    """The steps that have a site: none in a plan of halves that lack it."""
    try:
        return steps_of(site, view.config, view.plan)
    except SiteError:
        return []
