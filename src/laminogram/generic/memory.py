"""The cache that a wrapped layer writes to: the slot of one step, in the dress of `transformers`.

A slot keeps column = position, rows left-aligned. The masks of `transformers` want rows of unequal
length to end together, as if padded on the left: so a row that began earlier is shown shifted to
the right, and what the layer adds is written back to its own place.

Axes: B rows, T new tokens, S columns, K key heads, D size of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from laminogram.stack.cache import AttentionSlot
from laminogram.stack.context import Context


class _Seen(CacheLayerMixin):
    """Says how many columns came before; every layer keeps all of them, also behind a window."""

    is_sliding = False

    def __init__(self, seen: int) -> None:
        super().__init__()
        self.seen = seen

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: slots exist before."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a placeholder remembers nothing")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_seq_length(self) -> int:
        return self.seen

    def get_max_length(self) -> int:
        return -1


class Placeholder(Cache):
    """What masks are made from: a cache of `layers` layers that has seen `seen` columns."""

    def __init__(self, layers: int, seen: int) -> None:
        super().__init__(layers=[_Seen(seen)] * layers)


class Memory(Placeholder):
    """The memory of one step. Whatever number a layer writes under, it writes to this slot."""

    def __init__(
        self, slot: AttentionSlot, ctx: Context, shift: Tensor | None, like: Cache
    ) -> None:
        super().__init__(len(like.layers), like.get_seq_length())
        self._slot, self._ctx, self._shift = slot, ctx, shift

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, K, T, D); all columns so far, (B, K, S, D)."""
        slot, ctx = self._slot, self._ctx
        slot.extend(key_states.transpose(1, 2), value_states.transpose(1, 2), ctx.start,
                    ctx.positions)  # fmt: skip
        return self._shown(slot.k), self._shown(slot.v)

    def _shown(self, x: Tensor) -> Tensor:
        x = x[:, :, : self._ctx.columns]
        if self._shift is None:
            return x
        columns = torch.arange(x.shape[2], device=x.device) - self._shift[:, None]
        index = columns.clamp(min=0)[:, None, :, None]
        return x.gather(2, index.expand(x.shape))


class Shapes(Placeholder):
    """Learns what each layer remembers: the shapes (K, D) of its keys and of its values."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers, 0)
        self.found: dict[int, list[tuple[tuple[int, int], tuple[int, int]]]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        k, v = key_states.shape, value_states.shape
        self.found.setdefault(layer_idx, []).append(((k[1], k[3]), (v[1], v[3])))
        return key_states, value_states
