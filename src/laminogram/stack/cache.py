"""What a stack remembers between forwards: keys and values, recurrent states, token shifts.

One slot for each step of the plan, so that a layer which runs twice remembers twice. A cache knows
under which conditions (plan, edits, rope regime) it was filled and refuses to go on under others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from laminogram.errors import CacheError


class AttentionSlot:
    """Keys and values (B, K, capacity, D) of one step; column = position in the row."""

    def __init__(self, k: Tensor, v: Tensor) -> None:
        self.k, self.v = k, v

    def reserve(self, capacity: int) -> None:
        """Make room for at least `capacity` columns, keeping what is there."""
        have = self.k.shape[2]
        if capacity <= have:
            return
        grown = max(capacity, 2 * have)
        for name in ("k", "v"):
            old: Tensor = getattr(self, name)
            new = old.new_zeros(old.shape[0], old.shape[1], grown, old.shape[3])
            new[:, :, :have] = old
            setattr(self, name, new)

    def extend(self, k: Tensor, v: Tensor, start: int | None, positions: Tensor) -> None:
        """Write `k`, `v` (B, T, K, D) at columns `start`.. or, a row at a time, at `positions`."""
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        if start is not None:
            self.k[:, :, start : start + k.shape[2]] = k
            self.v[:, :, start : start + k.shape[2]] = v
            return
        index = positions[:, None, :, None].expand(k.shape)
        self.k.scatter_(2, index, k.to(self.k.dtype))
        self.v.scatter_(2, index, v.to(self.v.dtype))

    def tensors(self) -> dict[str, Tensor]:
        return {"k": self.k, "v": self.v}


class StateSlot:
    """A token shift (B, C) and, for a time mix, the recurrent state of one step."""

    def __init__(self, shift: Tensor, state: Tensor | None = None) -> None:
        self.shift, self.state = shift, state
        self.decoder: Any = None  # working memory of a mixer's shortest path; never saved

    def reserve(self, capacity: int) -> None:
        """A state has one size for any length."""

    def store(self, shift: Tensor, state: Tensor | None = None) -> None:
        """Replace what is remembered, in place."""
        self.shift.copy_(shift)
        if state is not None and self.state is not None:
            self.state.copy_(state)

    def tensors(self) -> dict[str, Tensor]:
        return {"shift": self.shift} | ({} if self.state is None else {"state": self.state})


Slot = AttentionSlot | StateSlot | None


@dataclass
class StepSlot:
    """The memory of one step: of its token mixer and of its channel mixer."""

    attn: Any = None
    ffn: Any = None

    def parts(self) -> Iterator[tuple[str, AttentionSlot | StateSlot]]:
        for name in ("attn", "ffn"):
            part = getattr(self, name)
            if part is not None:
                yield name, part


@dataclass
class Cache:
    """The memory of a run of a stack: `lengths[b]` tokens of row b have been seen.

    `conditions` names what it was filled under; `regime` the rope regime of each row; `prompts`
    how many tokens the first forward brought. A run that broke off half-way leaves it `broken`.
    """

    slots: list[StepSlot]
    lengths: list[int]
    conditions: str
    regime: tuple[Any, ...] = ()
    streams: dict[str, Tensor] = field(default_factory=dict)
    planned: int = 0
    prompts: list[int] = field(default_factory=list)
    broken: bool = False

    @property
    def batch(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes that the cache holds, room for coming tokens included."""
        return sum(x.numel() * x.element_size() for x in self.tensors().values())

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` tokens a row in every slot."""
        for slot in self.slots:
            for _, part in slot.parts():
                part.reserve(capacity)

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
            for i, slot in enumerate(self.slots)
            for name, part in slot.parts()
            for key, tensor in part.tensors().items()
        }
        return found | {f"stream.{name}": tensor for name, tensor in self.streams.items()}

    def fork(self, copies: int = 1) -> Cache:
        """An independent copy; with `copies` > 1 every row becomes that many neighbouring rows."""

        def clone(x: Tensor) -> Tensor:
            return x.repeat_interleave(copies, 0) if copies > 1 else x.clone()

        lengths = [n for n in self.lengths for _ in range(copies)]
        regime = tuple(r for r in self.regime for _ in range(copies))
        streams = {name: clone(x) for name, x in self.streams.items()}
        slots = [StepSlot(_clone(s.attn, clone), _clone(s.ffn, clone)) for s in self.slots]
        prompts = [n for n in self.prompts for _ in range(copies)]
        return Cache(slots, lengths, self.conditions, regime, streams, self.planned, prompts)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill the slots from `tensors()` of a cache of the same shape (capacity may differ)."""
        capacity = max((t.shape[2] for n, t in tensors.items() if n.endswith(".k")), default=0)
        self.reserve(capacity)
        own = self.tensors()
        if set(own) != set(tensors):
            odd = sorted(set(own) ^ set(tensors))
            raise CacheError(f"the saved cache does not fit this stack: {', '.join(odd[:5])}")
        for name, tensor in tensors.items():
            target = own[name]
            if name.endswith((".k", ".v")):
                target = target[:, :, : tensor.shape[2]]
            if target.shape != tensor.shape:
                raise CacheError(
                    f"{name} of the saved cache has shape {tuple(tensor.shape)}, "
                    f"this stack has {tuple(target.shape)}"
                )
            target.copy_(tensor)


def _clone(part: Any, clone: Any) -> Any:
    if part is None:
        return None
    if isinstance(part, AttentionSlot):
        return AttentionSlot(clone(part.k), clone(part.v))
    return StateSlot(clone(part.shift), None if part.state is None else clone(part.state))


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Recurrent states are kept in fp32, or fp64 where the weights are."""
    return torch.float64 if dtype == torch.float64 else torch.float32
