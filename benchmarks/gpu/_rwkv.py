"""RWKV models for the GPU rows: random weights made on the device, under BlinkDL's names.

Every side reads the same file. Scales are those of trained networks where speed or range could
depend on them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RANKS = {"w": 96, "a": 96, "v": 64, "g": 256}  # of the published RWKV-7 of 1.5 B
HEAD = 64
BUILD_S = 60
"""Seconds for which a benchmark waits for the kernels of the `rwkv` package to be compiled."""


@dataclass(frozen=True)
class Shape:
    """One model: which RWKV, and its sizes."""

    version: int  # 4 or 7
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
        found += [(n, tokens, c, rank) for rank in RANKS.values()]
        found += [(n, tokens, rank, c) for rank in RANKS.values()]
        return [(4 * n, tokens, c, c), *found]


RWKV4 = Shape(4, 24, 2048, 8192, 50277)
RWKV7 = Shape(7, 24, 2048, 8192, 65536)
MIDDLE = {4: Shape(4, 12, 768, 3072, 4096), 7: Shape(7, 12, 768, 3072, 4096)}
SMALL = {4: Shape(4, 12, 176, 608, 4096), 7: Shape(7, 6, 64, 256, 4096)}  # as the zoo's
TINY = {4: Shape(4, 2, 64, 128, 256), 7: Shape(7, 2, 64, 256, 256)}


def written(shape: Shape, device: str, folder: Path) -> Path:
    """The `.pth` file of a shape below `folder`, in bf16; made where it is not there yet."""
    path = folder / f"rwkv{shape.version}-{shape.layers}x{shape.size}.pth"
    if not path.exists():
        names = _rwkv4 if shape.version == 4 else _rwkv7
        tensors = names(shape, _Draw(device))
        torch.save({name: x.to("cpu", torch.bfloat16) for name, x in tensors}, path)
    return path


def opened(path: Path, dtype: torch.dtype, device: str) -> Any:
    """This package's stack of a file."""
    from laminogram.checkpoint.load import open_model

    return open_model(path, dtype=dtype, device=device).stack


def peer(version: int, path: Path, device: str) -> Callable[[list[int]], Tensor]:
    """The last logits of a text by the `rwkv` package."""
    model = peer_model(version, path, device)
    return lambda ids: model.forward(ids, None)[0]


def peer_model(version: int, path: Path, device: str) -> Any:
    """The model of the `rwkv` package, in fp16, which its kernels are written for.

    The package decides by the environment, on import, which RWKV it is.
    """
    os.environ |= {"RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "1" if has_kernels(device) else "0"}
    os.environ["RWKV_V7_ON"] = "1" if version == 7 else "0"
    for name in [name for name in sys.modules if name.split(".")[0] == "rwkv"]:
        del sys.modules[name]
    with contextlib.redirect_stdout(io.StringIO()):
        from rwkv.model import RWKV

        name = str(path) if version == 4 else str(path.with_suffix(""))
        return RWKV(model=name, strategy="cuda fp16" if device == "cuda" else "cpu fp32")


@functools.cache
def has_kernels(device: str) -> bool:
    """Whether the kernels of the `rwkv` package are there, which it compiles on its first import.

    They are built beforehand, in a process that is ended after `BUILD_S` seconds: the import itself
    would wait for as long as it takes, or without end for a build that was broken off.
    """
    if device != "cuda":
        return False
    build = subprocess.Popen(
        [sys.executable, "-c", "import rwkv.model"],
        env={**os.environ, "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "1", "RWKV_V7_ON": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # compilers that it started end with it
    )
    try:
        return build.wait(BUILD_S) == 0
    except subprocess.TimeoutExpired:
        os.killpg(build.pid, signal.SIGKILL)
        build.wait()
        return False


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
