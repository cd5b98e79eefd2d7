"""Attention maps: who reads whom, head by head, of chosen layers.

Axes: R rows (steps that have a pattern), H heads, T tokens, t cells of the map.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.numbers import numbers
from laminogram.probe.program import steps_of
from laminogram.probe.subject import Subject, Text
from laminogram.stack.sites import MATRIX
from laminogram.studies.pooling import strongest
from laminogram.studies.reading import (
    Tables,
    about,
    ids_of,
    names_of,
    read_one,
    step_labels,
    told_apart,
    walk,
    wide,
)

MAP_CELLS = 128
"""Longer texts are pooled to at most so many cells a side."""


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """pattern (R, H, t, t) f32: query down, key across; labels, steps, layers: of each row.

    t is the number of tokens where `pooled` is 1. Else each cell is the weight largest in size of
    `pooled` x `pooled` tokens (the last cells hold fewer), and rows no longer sum to 1. normalised:
    rows of the unpooled pattern sum to 1. meaning: what a weight is here. note: what to beware of,
    empty where nothing. causal: nothing stands above the diagonal.
    """

    model: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    labels: tuple[str, ...]
    steps: tuple[int, ...]
    layers: tuple[int, ...]
    pattern: np.ndarray
    pooled: int
    normalised: bool
    causal: bool
    meaning: str
    note: str
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def cell_labels(self) -> tuple[str, ...]:
        """The texts of each cell's tokens, told apart by position where one token is a cell."""
        if self.pooled == 1:
            return told_apart(self.tokens)
        starts = range(0, len(self.tokens), self.pooled)
        ends = (min(start + self.pooled, len(self.tokens)) for start in starts)
        return tuple(f"tokens {start}-{end - 1}" for start, end in zip(starts, ends))

    def tables(self) -> Tables:
        """`attention`: a row for each (row, head, query cell), its weights as a list of t."""
        rows, heads, cells, _ = self.pattern.shape
        each = np.arange(rows).repeat(heads * cells)
        return {
            "attention": {
                "step": np.array(self.steps)[each],
                "layer": np.array(self.layers)[each],
                "head": np.tile(np.arange(heads).repeat(cells), rows),
                "query": np.tile(np.arange(cells) * self.pooled, rows * heads),
                "weights": self.pattern.reshape(rows * heads * cells, cells),
            }
        }


def attention(
    view: Subject, text: Text, layers: Iterable[int] | int | None = None
) -> AttentionMaps:
    """The pattern of every step that has one, or of those of some layers.

    One layer's pattern (H, T, T) is held at a time, and of it what is kept. TokenError for several
    texts, ConfigError for a text beyond the context or layers of different numbers of heads,
    SiteError for a layer that is not in the plan.
    """
    batch = read_one(view, text)
    steps = steps_of("pattern", view.config, view.plan, numbers("layers", layers))
    count = batch.lengths[0]
    pooled = -(-count // MAP_CELLS)
    maps: dict[int, np.ndarray] = {}

    def keep(site: str, step: int, x: Tensor) -> None:
        one = wide(x[0, :, :count, :count]).float().cpu().numpy()
        maps[step] = strongest(strongest(one, pooled, axis=1)[0], pooled, axis=2)[0].copy()

    walk(view, batch, dict.fromkeys(steps, ("pattern",)), keep)
    if len({one.shape for one in maps.values()}) > 1:
        heads = sorted({one.shape[0] for one in maps.values()})
        raise ConfigError(f"layers of {heads} heads do not fit one picture: choose among layers")
    at = tuple(view.plan.steps[step].layer for step in steps)
    kinds: set[str] = {view.config.layers[layer].attn.kind for layer in at}
    ids = ids_of(batch)
    return AttentionMaps(
        model=view.name,
        tokens=names_of(view, ids),
        token_ids=ids,
        labels=step_labels(view.plan, steps),
        steps=tuple(steps),
        layers=at,
        pattern=np.stack([maps[step] for step in steps]),
        pooled=pooled,
        normalised=kinds.isdisjoint(MATRIX),
        causal=all(getattr(view.config.layers[layer].attn, "causal", True) for layer in at),
        meaning="; ".join(dict.fromkeys(_MEANINGS[kind] for kind in sorted(kinds))),
        note=_note(kinds, pooled),
        manifest=about(view, "attention", [batch], layers=sorted(set(at)), pooled=pooled),
    )


def _note(kinds: set[str], pooled: int) -> str:
    said = list(dict.fromkeys(_NOTES[kind] for kind in sorted(kinds) if kind in _NOTES))
    if pooled > 1:
        said.append(
            f"The text is long: each cell shows the weight largest in size among {pooled} x "
            f"{pooled} tokens, so the cells of a row do not sum to 1."
        )
    return " ".join(said)


_MEANINGS = {
    "attention": "attention weight",
    "latent": "attention weight",
    "rwkv4_time": "effective attention of the recurrence, averaged over channels",
    **dict.fromkeys(MATRIX, "effective attention of the recurrence, signed"),
}
_NOTES = {
    "rwkv4_time": "RWKV-4 has no heads: its one map is the normalised weight of each earlier token "
    "in what the recurrence answers, averaged over channels; rows sum to 1.",
    **dict.fromkeys(
        MATRIX,
        "The map of a recurrence is how much of each earlier token's value it reads, head by head: "
        "it is signed, and rows do not sum to 1.",
    ),
}
