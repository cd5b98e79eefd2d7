"""Which pipeline stage runs which layers: even or uneven, with or without virtual stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from laminogram.errors import ConfigError


class Place(NamedTuple):
    """Where a layer lies: its stage, that stage's chunk, and its number within the chunk."""

    stage: int
    chunk: int
    local: int


@dataclass(frozen=True)
class Stages:
    """The layers of a pipeline of `pp` stages with `vpp` chunks each.

    `counts` are the layers of every chunk in the order in which they run: the first chunks of all
    stages, then the second ones, ...
    """

    pp: int
    vpp: int
    counts: tuple[int, ...]

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        return sum(self.counts)

    def first(self, stage: int, chunk: int = 0) -> int:
        """The global number of a chunk's first layer."""
        return sum(self.counts[: chunk * self.pp + stage])

    def count(self, stage: int, chunk: int = 0) -> int:
        """How many layers a chunk has."""
        return self.counts[chunk * self.pp + stage]

    def place(self, layer: int) -> Place:
        """Where a layer lies."""
        for slot, end in enumerate(accumulate(self.counts)):
            if layer < end:
                chunk, stage = divmod(slot, self.pp)
                return Place(stage, chunk, layer - (end - self.counts[slot]))
        raise ConfigError(f"layer {layer} does not exist; there are {self.num_layers}")


def split_layers(
    num_layers: int,
    pp: int,
    vpp: int = 1,
    *,
    counts: Sequence[int] | None = None,
    first: int | None = None,
    last: int | None = None,
    embedding: bool = False,
    loss: bool = False,
) -> Stages:
    """Layers for every stage, in one of Megatron's ways.

    counts: layers of each chunk in the order in which they run (an explicit pipeline layout).
    first, last: layers of the first and last stage, the others sharing the rest evenly. embedding,
    loss: these count as a layer of the first and the last chunk. Nothing given: all alike.
    ConfigError says which numbers do not divide.
    """
    if pp < 1 or vpp < 1:
        raise ConfigError(f"a pipeline has at least one stage and one chunk, not {pp} and {vpp}")
    if vpp > 1 and pp == 1:
        raise ConfigError("virtual stages need a pipeline of at least two stages")
    if counts is not None:
        made = tuple(int(count) for count in counts)
        if len(made) != pp * vpp or min(made) < 0 or sum(made) != num_layers:
            raise ConfigError(
                f"the stages {list(made)} do not hold {num_layers} layers in {pp * vpp} chunks "
                f"({pp} stages of {vpp})"
            )
        return Stages(pp, vpp, made)
    if first is not None or last is not None:
        return Stages(pp, vpp, _with_ends(num_layers, pp, vpp, first, last))
    slots = num_layers + embedding + loss
    if slots % (pp * vpp):
        raise ConfigError(
            f"{slots} layers{' with the ends' if embedding or loss else ''} cannot be shared "
            f"evenly by {pp} stages of {vpp} chunks; name the layers of each"
        )
    even = [slots // (pp * vpp)] * (pp * vpp)
    even[0] -= embedding
    even[-1] -= loss
    return Stages(pp, vpp, tuple(even))


def _with_ends(
    num_layers: int, pp: int, vpp: int, first: int | None, last: int | None
) -> tuple[int, ...]:
    middle = pp - (first is not None) - (last is not None)
    rest = num_layers - (first or 0) - (last or 0)
    if middle < 0 or rest < 0 or (rest % (middle * vpp) if middle else rest):
        raise ConfigError(
            f"{num_layers} layers with {first} in the first and {last} in the last stage leave "
            f"{rest} for {middle} stages of {vpp} chunks"
        )
    if (first or 0) % vpp or (last or 0) % vpp:
        raise ConfigError(f"{first} and {last} layers cannot be shared by {vpp} virtual stages")
    share = rest // (middle * vpp) if middle else 0
    row = [share] * pp
    if first is not None:
        row[0] = first // vpp
    if last is not None:
        row[-1] = last // vpp
    return tuple(row) * vpp
