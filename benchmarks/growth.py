"""How cost grows: forward and statistics with tokens, layers and width; decode with the context.

    python -m benchmarks.growth                 fp32 on the CPU, two threads
    python -m benchmarks.growth --tiny          small sizes: does the command work?
    python -m benchmarks.growth --out FILE      every number as JSON

Every line doubles one size. `times` is its time over that of the line before: 2 for a cost in
proportion, 1 for one that does not depend on the size. A forward's products grow with the square of
the width, its statistics with the width; a token of RWKV is to cost the same after any context, one
of Llama to grow by the keys and values alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch import Tensor

from benchmarks.cpu.statistics import measured
from benchmarks.lab import about
from benchmarks.shapes import SHAPES, Shape, write
from benchmarks.sides import Laminogram
from benchmarks.timing import interleave

Work = Callable[[], object]
NEW_TOKENS = 8


def main() -> int:
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    out: dict[str, Any] = {"about": about("cpu", asked.threads), "tables": {}}
    print(f"{'what':24} {'size':>8} {'ms':>10} {'times':>6}")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for what, works in _tables(Path(folder), asked.tiny):
            lines = _measured(works, asked.rounds)
            out["tables"][what] = lines
            before = None
            for size, seconds in lines.items():
                times = "" if before is None else f"{seconds / before:6.2f}"
                print(f"{what:24} {size:>8} {1e3 * seconds:10.2f} {times:>6}", flush=True)
                before = seconds
    if asked.out:
        asked.out.write_text(json.dumps(out, indent=1), encoding="utf-8")
    return 0


def _measured(works: dict[int, Work], rounds: int) -> dict[int, float]:
    """Median seconds by size, the sizes interleaved."""
    times = interleave({str(size): work for size, work in works.items()}, rounds=rounds)
    return {size: times.median(str(size)) for size in works}


def _tables(folder: Path, tiny: bool) -> Iterator[tuple[str, dict[int, Work]]]:
    """What is measured, and the work of every size."""
    base = replace(SHAPES["llama-125m"], layers=2, vocab=4000)
    base = SHAPES["llama-tiny"] if tiny else base
    tokens, doublings = (16, 2) if tiny else (128, 4)
    sizes = [2**power for power in range(doublings)]
    one = _side(folder, base)
    shapes = {
        "tokens": [(one, tokens * n, tokens * n) for n in sizes],
        "layers": [
            (_side(folder, replace(base, layers=n)), tokens, n) for n in sizes
        ],
        "width": [(_side(folder, _wider(base, n)), tokens, base.hidden * n) for n in sizes[:-1]],
    }  # fmt: skip
    for by, cases in shapes.items():
        yield (
            f"forward by {by}",
            {
                size: lambda side=side, count=count: side.run(_ids(count), logits="none")
                for side, count, size in cases
            },
        )
        yield (
            f"with statistics by {by}",
            {
                size: lambda side=side, count=count: measured(side, _ids(count))
                for side, count, size in cases
            },
        )
    recurrent = SHAPES["rwkv4-tiny"] if tiny else replace(SHAPES["rwkv4-169m"], vocab=4000)
    for name, side in (("rwkv4", _side(folder, recurrent)), ("llama", one)):
        contexts = [tokens * n for n in sizes]
        yield f"{name} token by context", {n: _decoding(side, n) for n in contexts}


def _side(folder: Path, shape: Shape) -> Laminogram:
    """This package around a model of a shape."""
    name = f"{shape.kind}-{shape.layers}-{shape.hidden}"
    SHAPES[name] = shape
    where = folder / f"{name}-float32"
    return Laminogram(
        where if where.exists() else write(name, torch.float32, folder), torch.float32, "cpu"
    )


def _wider(shape: Shape, times: int) -> Shape:
    """More heads of the same size, and a wider feed-forward network."""
    return replace(
        shape,
        hidden=shape.hidden * times,
        ffn=shape.ffn * times,
        heads=shape.heads * times,
        kv_heads=shape.kv_heads * times,
    )


def _ids(tokens: int) -> Tensor:
    return torch.randint(3, 250, (1, tokens), generator=torch.Generator().manual_seed(2))


def _decoding(side: Laminogram, context: int) -> Work:
    """Some tokens more, from a cache that holds `context` of them."""
    full = side.stack.new_cache(1, side.plan, "growth", capacity=context + NEW_TOKENS)
    side.run(_ids(context), cache=full, logits="last")

    def work() -> None:
        cache = full.fork()
        for token in _ids(NEW_TOKENS)[0]:
            side.run(token.view(1, 1), cache=cache, logits="last")

    return work


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="small sizes: does the command work?")
    parser.add_argument("--out", type=Path, help="a JSON file for every number")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
