"""What every layer of one forward shares: positions, masks, rotary tables, side streams.

Built once before the first step, from host numbers alone, so that a layer stays a pure function of
tensors. For a captured decode step (`static`) everything is computed from the positions on the
device instead, with a mask over the whole capacity of the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from laminogram.stack import alibi
from laminogram.stack import rope as rotary
from laminogram.stack.config import (
    AttentionConfig,
    LatentAttentionConfig,
    RopeConfig,
    StackConfig,
)

V_FIRST = "v_first"
"""The side stream of RWKV-7: the values (B, T, H, D) of its first layer, which all others read."""


class MaskKey(NamedTuple):
    """Layers that share these share a mask. `alibi` is the number of heads with a slope, or 0."""

    causal: bool
    window: int | None
    alibi: int = 0


Mask = tuple[Tensor | None, bool]
"""What is allowed or added, and whether the product's own causal mask serves."""


class _MadeWhenAsked(Mapping[MaskKey, Mask]):
    """Masks of which each is made when it is first asked for: fused kernels of a decode step need
    none of them."""

    def __init__(self, keys: set[MaskKey], make: Callable[[MaskKey], Mask]) -> None:
        self._keys, self._make = keys, make
        self._made: dict[MaskKey, Mask] = {}

    def __getitem__(self, key: MaskKey) -> Mask:
        if key not in self._made and key in self._keys:
            self._made[key] = self._make(key)
        return self._made[key]

    def __iter__(self) -> Iterator[MaskKey]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


@dataclass
class Context:
    """Everything a layer needs beside its parameters, its input, its slot and its taps.

    positions (B, T): place of each column in its row; lengths (B,): real tokens of each row in this
    forward, None where all columns are real; start: tokens before them, where equal in all rows;
    columns: S, how much of a cache to look at; masks: by kind the allowed (1|B, 1, T, S) or, with
    slopes, what is added to the scores (1|B, H, T, S), or None, and whether the product's own
    causal mask serves; rope: (cos, sin),
    each (1|B, T, 1, R) as `rope.turn` wants them, by index; streams: values that pass between
    layers outside the residual.
    """

    positions: Tensor
    lengths: Tensor | None
    start: int | None
    columns: int
    masks: Mapping[MaskKey, Mask]
    rope: list[tuple[Tensor, Tensor]]
    streams: dict[str, Tensor] = field(default_factory=dict)

    def last(self, h: Tensor) -> Tensor:
        """Each row's last real token of `h` (B, T, ...): (B, ...)."""
        if self.lengths is None:
            return h[:, -1]
        index = (self.lengths - 1).reshape(-1, 1, *([1] * (h.dim() - 2)))
        return h.gather(1, index.expand(-1, 1, *h.shape[2:]))[:, 0]

    def allowed(self, key: MaskKey) -> Tensor:
        """The mask (1|B, 1, T, S) of a layer, made explicit."""
        mask, own_causal = self.masks[key]
        if mask is not None:
            return mask[:, :1].isfinite() if key.alibi else mask
        if own_causal:
            return _mask(self.positions[:1], self.columns, window=None)
        rows = self.positions.shape[1]
        return torch.ones(1, 1, rows, self.columns, dtype=torch.bool, device=self.positions.device)

    def branch(self) -> Context:
        """The same, with side streams of its own: what a branch provides stays in the branch."""
        return replace(self, streams=dict(self.streams))

    def repeated(self, times: int) -> Context:
        """The same for the rows that many times over, one whole batch after the other."""

        def repeat(x: Tensor) -> Tensor:
            return x if x.shape[0] == 1 else x.repeat(times, *[1] * (x.dim() - 1))

        return replace(
            self,
            positions=self.positions.repeat(times, 1),
            lengths=None if self.lengths is None else self.lengths.repeat(times),
            masks={
                key: (None if mask is None else repeat(mask), own)
                for key, (mask, own) in self.masks.items()
            },
            rope=[(repeat(cos), repeat(sin)) for cos, sin in self.rope],
            streams={},
        )

    def to(self, device: torch.device) -> Context:
        """The same on another device, for stacks spread over several."""
        if self.positions.device == device:
            return self

        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device)

        return Context(
            self.positions.to(device),
            move(self.lengths),
            self.start,
            self.columns,
            {key: (move(mask), own) for key, (mask, own) in self.masks.items()},
            [(cos.to(device), sin.to(device)) for cos, sin in self.rope],
            {name: x.to(device) for name, x in self.streams.items()},
        )


class Rotary:
    """The distinct ropes of a stack and their tables of cosines and sines, grown as needed."""

    def __init__(self, config: StackConfig) -> None:
        self.ropes: list[RopeConfig] = []
        for rope in _ropes(config):
            if rope not in self.ropes:
                self.ropes.append(rope)
        self._tables: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def index(self, rope: RopeConfig | None) -> int:
        """Where `Context.rope` holds the tables of this rope."""
        return -1 if rope is None else self.ropes.index(rope)

    def regime(self, length: int) -> Hashable:
        """What the frequencies depend on beside the position; None where nothing."""
        regimes = tuple(rotary.regime(rope, length) for rope in self.ropes)
        return None if all(regime is None for regime in regimes) else regimes

    def tables(
        self, positions: Tensor, reach: int, lengths: tuple[int, ...]
    ) -> list[tuple[Tensor, Tensor]]:
        """(cos, sin), each (1|B, T, 1, R), of every rope at `positions` (1|B, T), below `reach`.

        lengths: the total length of each row, on which some kinds depend.
        """
        found = []
        for i, rope in enumerate(self.ropes):
            regimes = [rotary.regime(rope, length) for length in lengths]
            if len(set(regimes)) == 1:
                cos, sin = self._table(i, rope, lengths[0], reach, positions.device)
                found.append((cos[positions], sin[positions]))
                continue
            rows = [self._table(i, rope, length, reach, positions.device) for length in lengths]
            where = positions.expand(len(lengths), -1)
            cos = torch.stack([cos[p] for (cos, _), p in zip(rows, where)])
            sin = torch.stack([sin[p] for (_, sin), p in zip(rows, where)])
            found.append((cos, sin))
        return found

    def _table(
        self,
        i: int,
        rope: RopeConfig,
        length: int,
        reach: int,
        device: torch.device,
    ) -> tuple[Tensor, Tensor]:
        key = (i, rotary.regime(rope, length), device)
        have = self._tables.get(key)
        if have is None or have[0].shape[0] < reach:
            size = max(reach, 256, 0 if have is None else 2 * have[0].shape[0])
            cos, sin = rotary.spread(*rotary.tables(rope, torch.arange(size), length))
            have = cos.to(device), sin.to(device)
            if len(self._tables) > 32:  # a length-dependent kind makes one table a length
                self._tables.clear()
            self._tables[key] = have
        return have


def _ropes(config: StackConfig) -> Iterable[RopeConfig]:
    for layer in config.layers:
        attn = layer.attn
        if isinstance(attn, AttentionConfig | LatentAttentionConfig) and attn.rope is not None:
            yield attn.rope


def mask_keys(config: StackConfig) -> set[MaskKey]:
    """The kinds of attention mask that the layers of a stack need."""
    return {
        mask_key(layer.attn)
        for layer in config.layers
        if isinstance(layer.attn, AttentionConfig | LatentAttentionConfig)
    }


def mask_key(attention: AttentionConfig | LatentAttentionConfig) -> MaskKey:
    """The kind of mask that one attention layer needs."""
    if isinstance(attention, LatentAttentionConfig):
        return MaskKey(causal=True, window=None)
    heads = attention.num_attention_heads if attention.alibi else 0
    return MaskKey(attention.causal, attention.window, heads)


def _mask(positions: Tensor, columns: int, *, window: int | None) -> Tensor:
    """Allowed (B, 1, T, S): keys at most at the query's place and inside its window."""
    keys = torch.arange(columns, device=positions.device)
    queries = positions[:, None, :, None]
    allowed = keys <= queries
    if window is not None:
        allowed = allowed & (keys > queries - window)
    return allowed


def _sloped(
    allowed: Tensor, positions: Tensor, columns: int, heads: int, dtype: torch.dtype
) -> Tensor:
    """What is added to the scores (B, H, T, S): the heads' penalties, -inf where not allowed."""
    penalties = alibi.penalty(positions, columns, heads).to(dtype)
    return penalties.masked_fill(~allowed, float("-inf"))


def build(
    rotary_tables: Rotary,
    keys: set[MaskKey],
    lengths: tuple[int, ...],
    width: int,
    starts: tuple[int, ...],
    planned: tuple[int, ...],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Context:
    """The context of a forward over rows of `lengths` tokens in `width` columns after `starts`.

    planned: the total length of each row for which length-dependent ropes are set. dtype: that of
    the scores, to which slopes are added.
    """
    start = starts[0] if len(set(starts)) == 1 else None
    columns = max(starts) + width
    if start is None:
        offsets = torch.tensor(starts, device=device)
        positions = offsets[:, None] + torch.arange(width, device=device)
    else:
        positions = torch.arange(start, start + width, device=device)[None]
    uniform = all(length == width for length in lengths)
    real = None if uniform else torch.tensor(lengths, device=device)
    masks: dict[MaskKey, Mask] = {}
    for key in keys:
        masks[key] = _plan_mask(positions, columns, width, start, real, key, dtype)
    tables = rotary_tables.tables(positions, columns, planned)
    every = positions.expand(len(lengths), -1)
    return Context(every, real, start, columns, masks, tables)


def _plan_mask(
    positions: Tensor,
    columns: int,
    width: int,
    start: int | None,
    lengths: Tensor | None,
    key: MaskKey,
    dtype: torch.dtype,
) -> Mask:
    """The cheapest correct mask: none, the product's own causal one, or an explicit one."""
    if key.alibi:
        allowed = _mask(positions, columns, window=key.window)
        return _sloped(allowed, positions, columns, key.alibi, dtype), False
    if not key.causal:
        if lengths is None:
            return None, False
        keys = torch.arange(columns, device=positions.device)
        return (keys < lengths[:, None])[:, None, None], False
    wide = key.window is None or columns <= key.window
    if start is not None and wide and width == 1:
        return None, False
    if start == 0 and wide:
        return None, True
    return _mask(positions, columns, window=key.window), False


def build_tree(
    rotary_tables: Rotary, keys: set[MaskKey], seen: Tensor, lengths: tuple[int, ...]
) -> Context:
    """The context of rows that are trees of tokens, each of which reads the way that leads to it.

    seen (B, T, T), true where column s lies on the way to column t, itself included; lengths: the
    columns of each row that are real. No slopes, and no rotary that depends on the length.
    """
    width = seen.shape[1]
    positions = seen.sum(-1) - 1
    masks: dict[MaskKey, Mask] = {}
    for key in keys:
        near = seen
        if key.window is not None:
            near = seen & (positions[:, None, :] > positions[:, :, None] - key.window)
        masks[key] = near[:, None], False
    tables = rotary_tables.tables(positions, width, (width,))
    return Context(positions, torch.tensor(lengths, device=seen.device), 0, width, masks, tables)


def build_static(
    rotary_tables: Rotary,
    keys: set[MaskKey],
    positions: Tensor,
    capacity: int,
    planned: int,
    dtype: torch.dtype,
) -> Context:
    """The context of one decode step at `positions` (B, 1) held on the device: no host number."""

    def mask(key: MaskKey) -> Mask:
        allowed = _mask(positions, capacity, window=key.window)
        if key.alibi:
            allowed = _sloped(allowed, positions, capacity, key.alibi, dtype)
        return allowed, False

    tables = rotary_tables.tables(positions, capacity, (planned,))
    return Context(positions, None, None, capacity, _MadeWhenAsked(keys, mask), tables)
