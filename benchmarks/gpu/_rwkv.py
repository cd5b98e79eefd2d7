"""RWKV models for the GPU rows: random weights made on the device, under BlinkDL's names.

Every side reads the same file. Scales are those of trained networks where speed or range could
depend on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RANKS_6 = {"mix": 32, "decay": 64}  # of the published RWKV-6 of 1.6 B
RANKS = {"w": 96, "a": 96, "v": 64, "g": 256}  # of the published RWKV-7 of 1.5 B
HEAD = 64


@dataclass(frozen=True)
class Shape:
    """One model: which RWKV, and its sizes."""

    version: int  # 4, 6 or 7
    layers: int
    size: int
    ffn: int
    vocab: int

    def products(self, tokens: int) -> list[tuple[int, int, int, int]]:
        """(count, rows, inputs, outputs) of all products over `tokens`, with one row of logits."""
        n, c, f = self.layers, self.size, self.ffn
        found = [(n, tokens, c, f), (n, tokens, f, c), (1, 1, c, self.vocab)]
        if self.version == 4:
            return [(5 * n, tokens, c, c), *found]
        if self.version == 6:
            mix, decay = RANKS_6["mix"], RANKS_6["decay"]
            found += [(n, tokens, c, 5 * mix), (5 * n, tokens, mix, c)]
            found += [(n, tokens, c, decay), (n, tokens, decay, c)]
            return [(6 * n, tokens, c, c), *found]
        found += [(n, tokens, c, rank) for rank in RANKS.values()]
        found += [(n, tokens, rank, c) for rank in RANKS.values()]
        return [(4 * n, tokens, c, c), *found]


RWKV4 = Shape(4, 24, 2048, 8192, 50277)
RWKV6 = Shape(6, 24, 2048, 7168, 65536)
RWKV7 = Shape(7, 24, 2048, 8192, 65536)
BIG = {4: RWKV4, 6: RWKV6, 7: RWKV7}
MIDDLE = {
    4: Shape(4, 12, 768, 3072, 4096),
    6: Shape(6, 12, 768, 2688, 4096),
    7: Shape(7, 12, 768, 3072, 4096),
}
SMALL = {4: Shape(4, 12, 176, 608, 4096), 7: Shape(7, 6, 64, 256, 4096)}  # as the zoo's
TINY = {
    4: Shape(4, 2, 64, 128, 256),
    6: Shape(6, 2, 64, 224, 256),
    7: Shape(7, 2, 64, 256, 256),
}


def written(shape: Shape, device: str, folder: Path) -> Path:
    """The `.pth` file of a shape below `folder`, in bf16; made where it is not there yet."""
    path = folder / f"rwkv{shape.version}-{shape.layers}x{shape.size}.pth"
    if not path.exists():
        tensors = _NAMED[shape.version](shape, _Draw(device))
        torch.save({name: x.to("cpu", torch.bfloat16) for name, x in tensors}, path)
    return path


def opened(path: Path, dtype: torch.dtype, device: str) -> Any:
    """This package's stack of a file."""
    from laminogram.checkpoint.load import open_model

    return open_model(path, dtype=dtype, device=device).stack


@contextmanager
def recurrence(version: int, kernel: Callable[..., tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Layers of an RWKV take `kernel` in place of this package's, where it has the same arguments;
    what was captured meanwhile keeps it."""
    from laminogram.stack import kernels

    name = f"wkv{version}"
    before = getattr(kernels, name)
    setattr(kernels, name, kernel)
    try:
        yield
    finally:
        setattr(kernels, name, before)


class _Draw:
    """Seeded random tensors on the device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(20)

    def normal(self, *shape: int, spread: float = 1.0, around: float = 0.0) -> Tensor:
        x = torch.randn(*shape, generator=self.generator, device=self.device)
        return around + spread * x

    def matrix(self, rows: int, columns: int, gain: float = 1.0) -> Tensor:
        return self.normal(rows, columns, spread=gain / math.sqrt(columns))

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        x = torch.rand(*shape, generator=self.generator, device=self.device)
        return low + (high - low) * x

    def norm(self, name: str, size: int) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", self.normal(size, spread=0.1, around=1.0)
        yield f"{name}.bias", self.normal(size, spread=0.1)


def _ends(shape: Shape, draw: _Draw) -> Iterator[tuple[str, Tensor]]:
    yield "emb.weight", draw.normal(shape.vocab, shape.size, spread=0.1)
    yield from draw.norm("blocks.0.ln0", shape.size)
    yield from draw.norm("ln_out", shape.size)
    yield "head.weight", draw.matrix(shape.vocab, shape.size)
    for i in range(shape.layers):
        yield from draw.norm(f"blocks.{i}.ln1", shape.size)
        yield from draw.norm(f"blocks.{i}.ln2", shape.size)


def _rwkv4(shape: Shape, draw: _Draw) -> Iterator[tuple[str, Tensor]]:
    size = shape.size
    yield from _ends(shape, draw)
    for i in range(shape.layers):
        att, ffn = f"blocks.{i}.att", f"blocks.{i}.ffn"
        yield f"{att}.time_decay", draw.between(-5, 3, size)
        yield f"{att}.time_first", draw.normal(size, spread=0.5, around=-1.2)
        for letter in "kvr":
            yield f"{att}.time_mix_{letter}", draw.between(0, 1, 1, 1, size)
        for name in ("key", "value", "receptance", "output"):
            yield f"{att}.{name}.weight", draw.matrix(size, size)
        for letter in "kr":
            yield f"{ffn}.time_mix_{letter}", draw.between(0, 1, 1, 1, size)
        yield f"{ffn}.key.weight", draw.matrix(shape.ffn, size)
        yield f"{ffn}.value.weight", draw.matrix(size, shape.ffn, 0.5)
        yield f"{ffn}.receptance.weight", draw.matrix(size, size)


def _rwkv7(shape: Shape, draw: _Draw) -> Iterator[tuple[str, Tensor]]:
    size = shape.size
    ranks = {letter: min(rank, size // 2) for letter, rank in RANKS.items()}
    yield from _ends(shape, draw)
    for i in range(shape.layers):
        att, ffn = f"blocks.{i}.att", f"blocks.{i}.ffn"
        for letter in "rwkvag":
            yield f"{att}.x_{letter}", draw.between(0, 1, 1, 1, size)
        for letter, rank in ranks.items():
            if letter == "v" and i == 0:
                continue
            if letter != "g":
                low, high = (-6.0, 1.0) if letter == "w" else (-1.0, 1.0)
                yield f"{att}.{letter}0", draw.between(low, high, 1, 1, size)
            yield f"{att}.{letter}1", draw.matrix(size, rank) * math.sqrt(rank / size)
            yield f"{att}.{letter}2", draw.matrix(rank, size) * math.sqrt(size / rank)
        yield f"{att}.k_k", draw.normal(1, 1, size, spread=0.1, around=0.85)
        yield f"{att}.k_a", draw.normal(1, 1, size, spread=0.1, around=1.0)
        yield f"{att}.r_k", draw.normal(size // HEAD, HEAD, spread=0.1)
        for name in ("key", "value", "receptance", "output"):
            yield f"{att}.{name}.weight", draw.matrix(size, size)
        yield from draw.norm(f"{att}.ln_x", size)
        yield f"{ffn}.x_k", draw.between(0, 1, 1, 1, size)
        yield f"{ffn}.key.weight", draw.matrix(shape.ffn, size)
        yield f"{ffn}.value.weight", draw.matrix(size, shape.ffn, 0.5)


def _rwkv6(shape: Shape, draw: _Draw) -> Iterator[tuple[str, Tensor]]:
    size = shape.size
    mix, decay = (min(rank, size // 2) for rank in RANKS_6.values())
    yield from _ends(shape, draw)
    for i in range(shape.layers):
        att, ffn = f"blocks.{i}.att", f"blocks.{i}.ffn"
        for letter in "xwkvrg":
            yield f"{att}.time_maa_{letter}", draw.between(0, 1, 1, 1, size)
        yield f"{att}.time_maa_w1", draw.matrix(size, 5 * mix) * math.sqrt(mix / size)
        yield f"{att}.time_maa_w2", draw.normal(5, mix, size, spread=0.2 / math.sqrt(mix))
        yield f"{att}.time_decay", draw.between(-6, 0, 1, 1, size)
        yield f"{att}.time_decay_w1", draw.matrix(size, decay) * math.sqrt(decay / size)
        yield f"{att}.time_decay_w2", draw.matrix(decay, size) * math.sqrt(size / decay)
        yield f"{att}.time_faaaa", draw.normal(size // HEAD, HEAD, spread=0.5)
        for name in ("key", "value", "receptance", "gate", "output"):
            yield f"{att}.{name}.weight", draw.matrix(size, size)
        yield from draw.norm(f"{att}.ln_x", size)
        for letter in "kr":
            yield f"{ffn}.time_maa_{letter}", draw.between(0, 1, 1, 1, size)
        yield f"{ffn}.key.weight", draw.matrix(shape.ffn, size)
        yield f"{ffn}.value.weight", draw.matrix(size, shape.ffn, 0.5)
        yield f"{ffn}.receptance.weight", draw.matrix(size, size)


_NAMED = {4: _rwkv4, 6: _rwkv6, 7: _rwkv7}
