"""What a stack remembers between forwards: keys and values, recurrent states, token shifts.

One slot for each step of the plan, so that a layer which runs twice remembers twice. A cache knows
under which conditions (plan, edits, rope regime) it was filled and refuses to go on under others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from laminogram.errors import CacheError
from laminogram.stack.kernels.shortened import Reader

Change = Callable[[Tensor], Tensor]
Memo = dict[int, Any]
"""What a copy has already made, by the identity of what it was made from."""


def grows(name: str) -> bool:
    """Whether a cache tensor of this name has a column for each token, on its third axis."""
    return name.endswith((".k", ".v", ".latent"))


def _grown(old: Tensor, capacity: int) -> Tensor:
    """A tensor (B, K, columns, D) with room for `capacity` columns, keeping what is there."""
    new = old.new_zeros(*old.shape[:2], capacity, old.shape[3])
    new[:, :, : old.shape[2]] = old
    return new


def _write(target: Tensor, new: Tensor, start: int | None, positions: Tensor) -> None:
    """Write `new` (B, T, K, D) at columns `start`.. or, a row at a time, at `positions` (B, T)."""
    new = new.transpose(1, 2)
    if start is not None:
        target[:, :, start : start + new.shape[2]] = new
        return
    target.scatter_(2, positions[:, None, :, None].expand(new.shape), new.to(target.dtype))


class AttentionSlot:
    """Keys and values (B, K, capacity, D) of one step; column = position in the row."""

    def __init__(self, k: Tensor, v: Tensor) -> None:
        self.k, self.v = k, v

    def reserve(self, capacity: int) -> None:
        """Make room for at least `capacity` columns, keeping what is there."""
        have = self.k.shape[2]
        if capacity <= have:
            return
        for name in ("k", "v"):
            setattr(self, name, _grown(getattr(self, name), max(capacity, 2 * have)))

    def extend(self, k: Tensor, v: Tensor, start: int | None, positions: Tensor) -> None:
        """Write `k`, `v` (B, T, K, D) at columns `start`.. or, a row at a time, at `positions`."""
        _write(self.k, k, start, positions)
        _write(self.v, v, start, positions)

    def tensors(self) -> dict[str, Tensor]:
        return {"k": self.k, "v": self.v}

    def mapped(self, change: Change, memo: Memo) -> Slot:
        """The same kind of slot with every tensor changed."""
        return type(self)(change(self.k), change(self.v))


class AttentionBlock(AttentionSlot):
    """The memories of a group's M layers as one, so that the layers can run together: row
    `m * B + b` of its tensors is row b of layer m."""

    def __init__(self, k: Tensor, v: Tensor, members: int) -> None:
        super().__init__(k, v)
        self.members = members

    def slots(self) -> list[BlockSlot]:
        """The memory of each layer."""
        return [BlockSlot(self, member) for member in range(self.members)]

    def mapped(self, change: Change, memo: Memo) -> AttentionBlock:
        if id(self) not in memo:
            slots = self.slots()
            k = torch.cat([change(slot.k) for slot in slots])
            v = torch.cat([change(slot.v) for slot in slots])
            memo[id(self)] = AttentionBlock(k, v, self.members)
        block: AttentionBlock = memo[id(self)]
        return block


class BlockSlot(AttentionSlot):
    """One layer's part of a block: a view, which grows and is copied with the whole."""

    def __init__(self, block: AttentionBlock, member: int) -> None:
        self.block, self.member = block, member

    @property
    def k(self) -> Tensor:  # type: ignore[override]
        return self._part(self.block.k)

    @property
    def v(self) -> Tensor:  # type: ignore[override]
        return self._part(self.block.v)

    def _part(self, x: Tensor) -> Tensor:
        rows = x.shape[0] // self.block.members
        return x[self.member * rows : (self.member + 1) * rows]

    def reserve(self, capacity: int) -> None:
        self.block.reserve(capacity)

    def mapped(self, change: Change, memo: Memo) -> BlockSlot:
        return BlockSlot(self.block.mapped(change, memo), self.member)


class AveragedSlot(AttentionSlot):
    """One memory for all branches of a parallel group: past tokens by the mean of their keys and
    values, the tokens of the present forward by each branch's own.

    So the code of "Transformer Layers as Painters" (Sun et al., arXiv 2407.09298) generates. It is
    an approximation: what is read depends on where one forward ends and the next begins.
    """

    def __init__(self, k: Tensor, v: Tensor) -> None:
        super().__init__(k, v)
        self._last: tuple[Tensor, Tensor, int | None, Tensor] | None = None
        self._own: list[tuple[Tensor, Tensor]] = []

    def extend(self, k: Tensor, v: Tensor, start: int | None, positions: Tensor) -> None:
        """Write one branch's keys and values over those of the branch before."""
        super().extend(k, v, start, positions)
        # No more than this inside a layer: one that is compiled would be so for each branch.
        self._last = k, v, start, positions

    def keep(self) -> None:
        """After each branch: put its keys and values aside."""
        if self._last is not None:
            self._own.append(self._last[:2])

    def finish(self) -> None:
        """After the last branch: remember the mean of all."""
        if self._last is None:
            return
        k, v = (torch.stack(branches).mean(0) for branches in zip(*self._own, strict=True))
        super().extend(k, v, *self._last[2:])
        self._own, self._last = [], None


class LatentSlot:
    """The latents (B, 1, capacity, L) of one step, one a token for all heads.

    What an edit writes at single heads is not in the latent: once there is one, the keys and values
    (B, H, capacity, D) are kept beside it, as they entered the product.
    """

    def __init__(self, latent: Tensor, k: Tensor | None = None, v: Tensor | None = None) -> None:
        self.latent, self.k, self.v = latent, k, v

    def reserve(self, capacity: int) -> None:
        """Make room for at least `capacity` columns, keeping what is there."""
        have = self.latent.shape[2]
        if capacity > have:
            for name, old in self.tensors().items():
                setattr(self, name, _grown(old, max(capacity, 2 * have)))

    def extend(self, latent: Tensor, start: int | None, positions: Tensor) -> None:
        """Write `latent` (B, T, L) at columns `start`.. or, a row at a time, at `positions`."""
        _write(self.latent, latent[:, :, None], start, positions)

    def make_room(self, saved: Mapping[str, Tensor], prefix: str) -> None:
        """Room for the keys and values that `saved` has under this prefix, if it has any."""
        for name in ("k", "v"):
            like = saved.get(prefix + name)
            if like is not None and getattr(self, name) is None:
                shape = (*like.shape[:2], self.latent.shape[2], like.shape[3])
                setattr(self, name, self.latent.new_zeros(shape))

    def extend_heads(self, k: Tensor, v: Tensor, start: int | None, positions: Tensor) -> None:
        """The same for `k`, `v` (B, T, H, D), which are kept already."""
        assert self.k is not None
        assert self.v is not None
        _write(self.k, k, start, positions)
        _write(self.v, v, start, positions)

    def tensors(self) -> dict[str, Tensor]:
        named = {"latent": self.latent, "k": self.k, "v": self.v}
        return {name: x for name, x in named.items() if x is not None}

    def mapped(self, change: Change, memo: Memo) -> LatentSlot:
        """The same kind of slot with every tensor changed."""
        return LatentSlot(**{name: change(x) for name, x in self.tensors().items()})


class StateSlot:
    """A token shift (B, C) and, for a time mix, the recurrent state of one step."""

    def __init__(self, shift: Tensor, state: Tensor | None = None) -> None:
        self.shift, self.state = shift, state

    def reserve(self, capacity: int) -> None:
        """A state has one size for any length."""

    def store(self, shift: Tensor, state: Tensor | None = None) -> None:
        """Replace what is remembered, in place."""
        self.shift.copy_(shift)
        if state is not None and self.state is not None:
            self.state.copy_(state)

    def tensors(self) -> dict[str, Tensor]:
        return {"shift": self.shift} | ({} if self.state is None else {"state": self.state})

    def mapped(self, change: Change, memo: Memo) -> StateSlot:
        """A slot with every tensor changed."""
        return StateSlot(change(self.shift), None if self.state is None else change(self.state))


Slot = AttentionSlot | LatentSlot | StateSlot


@dataclass
class StepSlot:
    """The memory of one step: of its token mixer and of its channel mixer.

    `short`: whether a decoder may read copies of weights (`kernels/shortened.py`).
    """

    attn: Any = None
    ffn: Any = None
    decoder: Any = None  # working memory of a layer's shortest path; never saved
    short: bool = True

    def parts(self) -> Iterator[tuple[str, Slot]]:
        for name in ("attn", "ffn"):
            part = getattr(self, name)
            if part is not None:
                yield name, part

    def counter(self, size: int, device: torch.device) -> Tensor:
        """`size` zeros or more by which programs of a kernel see which of them is last, kept for
        it."""
        if not isinstance(self.decoder, Tensor) or self.decoder.numel() < size:
            self.decoder = torch.zeros(size, device=device, dtype=torch.int32)
        kept: Tensor = self.decoder
        return kept

    def mapped(self, change: Change, memo: Memo) -> StepSlot:
        """The same memory with every tensor changed."""
        parts: dict[str, Any] = {name: part.mapped(change, memo) for name, part in self.parts()}
        return StepSlot(**parts, short=self.short)


@dataclass
class Cache:
    """The memory of a run of a stack: `lengths[b]` tokens of row b have been seen.

    `slots` has one for each step of the plan; the steps of a group may share theirs.
    `conditions` names what it was filled under; `regime` the rope regime of each row; `prompts`
    how many tokens the first forward brought. A run that broke off half-way leaves it `broken`.
    `reader` reads the head's weight for one token; None where it is read as it is. `passage` is
    what takes a token through all of it in one call (`at_once`), never saved.
    """

    slots: list[StepSlot]
    lengths: list[int]
    conditions: str
    regime: tuple[Any, ...] = ()
    streams: dict[str, Tensor] = field(default_factory=dict)
    planned: int = 0
    prompts: list[int] = field(default_factory=list)
    broken: bool = False
    reader: Reader | None = None
    passage: Any = field(default=None, init=False, repr=False, compare=False)
    _room: int = field(default=0, init=False, repr=False, compare=False)

    @property
    def batch(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes that the cache holds, room for coming tokens included."""
        return sum(x.numel() * x.element_size() for x in self.tensors().values())

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` tokens a row in every slot."""
        if capacity <= self._room:  # asked at every token
            return
        for slot in self._distinct().values():
            for _, part in slot.parts():
                part.reserve(capacity)
        columns = [x.shape[2] for name, x in self.tensors().items() if grows(name)]
        self._room = min(columns, default=sys.maxsize)

    @contextmanager
    def being_written(self) -> Iterator[None]:
        """While a run writes: one that breaks off leaves the cache `broken`."""
        self.broken = True
        yield
        self.broken = False

    def _distinct(self) -> dict[int, StepSlot]:
        """Every slot once, by the first step that uses it."""
        first: dict[int, int] = {}
        for step, slot in enumerate(self.slots):
            first.setdefault(id(slot), step)
        return {step: self.slots[step] for step in first.values()}

    def check(self, conditions: str, batch: int) -> None:
        """CacheError unless a run under `conditions` with `batch` rows may go on from here."""
        if self.broken:
            raise CacheError(
                "an earlier run broke off half-way through this cache: start a new one"
            )
        if batch != self.batch:
            raise CacheError(f"the cache holds {self.batch} rows, this run has {batch}")
        if conditions != self.conditions:
            raise CacheError(
                f"the cache was filled under [{self.conditions}] and cannot go on under "
                f"[{conditions}]: start a new one"
            )

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name: `3.attn.k`, `0.ffn.shift`, `stream.v_first`."""
        found = {
            f"{i}.{name}.{key}": tensor
            for i, slot in self._distinct().items()
            for name, part in slot.parts()
            for key, tensor in part.tensors().items()
        }
        return found | {f"stream.{name}": tensor for name, tensor in self.streams.items()}

    def fork(self, copies: int = 1) -> Cache:
        """An independent copy; with `copies` > 1 every row becomes that many neighbouring rows."""
        rows = [row for row in range(self.batch) for _ in range(copies)]
        return self._with_rows(
            rows, lambda x: x.repeat_interleave(copies, 0) if copies > 1 else x.clone()
        )

    def row(self, index: int) -> Cache:
        """An independent copy of one row."""
        return self._with_rows([index], lambda x: x[index : index + 1].clone())

    def _with_rows(self, rows: Sequence[int], change: Change) -> Cache:
        """A copy whose tensors `change` makes and whose row i is row `rows[i]` of this one."""
        memo: Memo = {}
        copies = {id(slot): slot.mapped(change, memo) for slot in self._distinct().values()}
        return Cache(
            [copies[id(slot)] for slot in self.slots],
            [self.lengths[row] for row in rows],
            self.conditions,
            tuple(self.regime[row] for row in rows) if self.regime else (),
            {name: change(x) for name, x in self.streams.items()},
            self.planned,
            [self.prompts[row] for row in rows] if self.prompts else [],
            reader=None if self.reader is None else Reader(),
        )

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill the slots from `tensors()` of a cache of the same shape (capacity may differ)."""
        capacity = max((t.shape[2] for n, t in tensors.items() if grows(n)), default=0)
        self.reserve(capacity)
        for step, slot in self._distinct().items():
            if isinstance(slot.attn, LatentSlot):
                slot.attn.make_room(tensors, f"{step}.attn.")
        own = self.tensors()
        if set(own) != set(tensors):
            odd = sorted(set(own) ^ set(tensors))
            raise CacheError(f"the saved cache does not fit this stack: {', '.join(odd[:5])}")
        for name, tensor in tensors.items():
            target = own[name]
            if grows(name):
                target = target[:, :, : tensor.shape[2]]
            if target.shape != tensor.shape:
                raise CacheError(
                    f"{name} of the saved cache has shape {tuple(tensor.shape)}, "
                    f"this stack has {tuple(target.shape)}"
                )
            target.copy_(tensor)


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Recurrent states are kept in fp32, or fp64 where the weights are."""
    return torch.float64 if dtype == torch.float64 else torch.float32
