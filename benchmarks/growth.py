"""How cost grows: forward and statistics with tokens, layers and width; a decoded token with the
context; a sweep with the number of its plans.

    python -m benchmarks.growth                    fp32 on the CPU, two threads
    python -m benchmarks.growth --device cuda      Llama 1.1 B and RWKV-4 1.5 B in bf16
    python -m benchmarks.growth --tiny             small sizes: does the command work?
    python -m benchmarks.growth --tables plans --out FILE

Every size is twice the one before. A cost in proportion doubles, one that does not depend on the
size stays. A forward's products grow with the square of the width, its statistics with the width; a
token of RWKV is to cost the same after any context, one of Llama to grow by the keys and values
alone; a sweep is to follow its layer calls, of which there are fewer than plans times layers, as
plans share their beginnings. FILE keeps the tables that it has and that were not asked for.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cpu.statistics import STATISTICS
from benchmarks.gpu import _rwkv
from benchmarks.gpu._llama import SITES, random_view
from benchmarks.gpu.statistics import KINDS
from benchmarks.lab import about, release, write_results
from benchmarks.shapes import SHAPES, Shape
from benchmarks.timing import interleave
from laminogram.infer.decode_graph import DecodeGraph
from laminogram.plans import Plan
from laminogram.plans.tree import PlanTree
from laminogram.stack.batch import Batch
from laminogram.view import View

Work = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One size: what is timed, and how often it happens in one run of it.

    begin: a shorter run whose time is taken off, where what comes before the first of many equal
    batches is not to count. calls: the layer calls of a sweep.
    """

    size: int
    work: Work
    repeats: int = 1
    begin: Work | None = None
    calls: float | None = None


Tables = Iterator[tuple[str, list[Case]]]
"""What is timed, and its sizes."""


@dataclass(frozen=True)
class Sizes:
    """What is measured on a device: the smallest size of every table, and how many there are."""

    llama: Shape
    rwkv: _rwkv.Shape
    dtype: torch.dtype
    tokens: tuple[int, int]
    layers: tuple[int, int]
    widths: tuple[int, int]
    contexts: tuple[int, int]
    plans: tuple[int, int]
    steps: int

    @staticmethod
    def powers(first_and_count: tuple[int, int]) -> list[int]:
        first, count = first_and_count
        return [first << power for power in range(count)]


_BASE = replace(SHAPES["llama-125m"], layers=2, vocab=4000)
SIZES = {
    "tiny": Sizes(
        SHAPES["llama-tiny"], _rwkv.TINY[4], torch.float32, (16, 2), (1, 2), (32, 2), (16, 2),
        (1, 3), 2,
    ),
    "cpu": Sizes(
        _BASE, replace(_rwkv.MIDDLE[4], vocab=4000), torch.float32, (128, 4), (1, 4), (192, 4),
        (128, 7), (1, 6), 8,
    ),
    "cuda": Sizes(
        SHAPES["llama-1.1b"], _rwkv.RWKV4, torch.bfloat16, (512, 5), (2, 4), (512, 4),
        (128, 7), (1, 6), 32,
    ),
}  # fmt: skip
PLAN_LAYERS = 12
BATCHES = {"cpu": (1, 3), "cuda": (4, 68)}
"""Batches of the shorter and the longer measurement of statistics; on a GPU many, for beginning
takes as long as a dozen of them, and several more or fewer from time to time."""


@dataclass(frozen=True)
class Bench:
    """Where and at what sizes."""

    device: str
    sizes: Sizes
    scratch: Path

    def llama(self, shape: Shape, *, fast: bool = True) -> View:
        """Random weights; on a GPU with fast forwards where they are asked for."""
        view = random_view(shape, self.device, self.sizes.dtype)
        return view.fast() if fast and self.device == "cuda" else view

    def ids(self, rows: int, tokens: int) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        return torch.randint(3, 250, (rows, tokens), generator=generator)

    def batch(self, tokens: int) -> Batch:
        return Batch(self.ids(1, tokens).to(self.device), (tokens,), (0,), tokens)


def by_context(bench: Bench) -> Tables:
    """A token after ever more of them; on a GPU in captured steps, as `generate` has them."""
    size = bench.sizes.rwkv
    path = _rwkv.written(size, bench.device, bench.scratch)
    stack = _rwkv.opened(path, bench.sizes.dtype, bench.device).eval().requires_grad_(False)
    rwkv = View(stack, None, "rwkv4", stack.full_plan())
    for name, view in (("RWKV-4", rwkv), ("Llama", bench.llama(bench.sizes.llama, fast=False))):
        contexts = Sizes.powers(bench.sizes.contexts)
        cases = [Case(n, _decoding(bench, view, n), bench.sizes.steps) for n in contexts]
        yield f"{name}: a decoded token", cases


def _decoding(bench: Bench, view: View, context: int) -> Work:
    """Some tokens more in a cache that holds `context` of them. It is set back to there; RWKV's
    state goes on instead, which costs the same."""
    steps = bench.sizes.steps
    graph = DecodeGraph(view, 1, context + steps, capture=bench.device == "cuda")
    first = graph.start(bench.ids(1, context).tolist()).argmax(-1)

    def captured() -> None:
        graph.cache.lengths, ids = [context], first
        graph.place()
        for _ in range(steps):
            ids = graph.step(ids).argmax(-1)

    def usual() -> None:
        graph.cache.lengths, ids = [context], first
        for _ in range(steps):
            batch = Batch(ids[None], (1,), (0,), 1)
            ids = view.run(batch, cache=graph.cache, logits="last")[:, 0].argmax(-1)

    return captured if bench.device == "cuda" else usual


def by_plans(bench: Bench) -> Tables:
    """Random plans over one batch: every list of them holds the one before."""
    view = bench.llama(replace(bench.sizes.llama, layers=PLAN_LAYERS), fast=False)
    counts = Sizes.powers(bench.sizes.plans)
    plans = _random_plans(counts[-1])
    batch = bench.batch(bench.sizes.tokens[0])
    trees = {count: PlanTree(plans[:count]) for count in counts}

    def swept(tree: PlanTree) -> Work:
        return lambda: [number for number, _ in view.sweep(tree, batch, logits="last")]

    cases = [Case(count, swept(tree), calls=tree.calls) for count, tree in trees.items()]
    yield f"sweep of {PLAN_LAYERS} layers", cases


def _random_plans(count: int) -> list[Plan]:
    """Different ones: the layers from a random one on, up to another, in a random order."""
    make, found = random.Random(7), {}
    while len(found) < count:
        first, last = sorted(make.sample(range(PLAN_LAYERS + 1), 2))
        middle = make.sample(range(first, last), last - first)
        plan = Plan.of([*range(first), *middle, *range(last, PLAN_LAYERS)])
        found[plan] = None
    return list(found)


def by_tokens(bench: Bench) -> Tables:
    view = bench.llama(bench.sizes.llama)
    yield from _both(bench, {n: (view, n) for n in Sizes.powers(bench.sizes.tokens)})


def by_layers(bench: Bench) -> Tables:
    shapes = {n: replace(bench.sizes.llama, layers=n) for n in Sizes.powers(bench.sizes.layers)}
    yield from _both(bench, _of_shapes(bench, shapes))


def by_width(bench: Bench) -> Tables:
    shapes = {n: _of_width(bench.sizes.llama, n) for n in Sizes.powers(bench.sizes.widths)}
    yield from _both(bench, _of_shapes(bench, shapes))


def _of_shapes(bench: Bench, shapes: dict[int, Shape]) -> dict[int, tuple[View, int]]:
    tokens = Sizes.powers(bench.sizes.tokens)[0 if bench.device == "cpu" else 2]
    return {size: (bench.llama(shape), tokens) for size, shape in shapes.items()}


def _of_width(shape: Shape, width: int) -> Shape:
    """Heads of the same size, more or fewer, and a feed-forward network as much wider."""
    sizes = (shape.hidden, shape.ffn, shape.heads, shape.kv_heads)
    hidden, ffn, heads, kv_heads = (size * width // shape.hidden for size in sizes)
    return replace(shape, hidden=hidden, ffn=ffn, heads=heads, kv_heads=kv_heads)


def _both(bench: Bench, cases: dict[int, tuple[View, int]]) -> Tables:
    """A forward without the head, and one with all statistics at three sites of every layer."""
    few, many = BATCHES[bench.device]
    batches = {tokens: bench.batch(tokens) for _, tokens in cases.values()}

    def forward(view: View, tokens: int) -> Work:
        return lambda: view.run(batches[tokens], logits="none")

    def measured(view: View, tokens: int, count: int) -> Work:
        texts = bench.ids(count, tokens)
        kinds = STATISTICS if bench.device == "cpu" else KINDS  # those that have a kernel
        return lambda: view.measure(texts, kinds, SITES, batch_size=1, progress=False)

    yield "forward", [Case(size, forward(*case)) for size, case in cases.items()]
    yield (
        "forward with statistics",
        [
            Case(size, measured(*case, many), many - few, begin=measured(*case, few))
            for size, case in cases.items()
        ],
    )


TABLES: dict[str, Callable[[Bench], Tables]] = {
    "context": by_context,
    "plans": by_plans,
    "tokens": by_tokens,
    "layers": by_layers,
    "width": by_width,
}


def seconds_of(cases: list[Case], rounds: int, warmup: int) -> dict[int, list[float]]:
    """Seconds of one of what each case repeats, by size and round, the sizes interleaved."""
    works = {f"{case.size}": case.work for case in cases}
    works |= {f"{case.size}, begin": case.begin for case in cases if case.begin is not None}
    times = interleave(works, rounds=rounds, warmup=warmup).seconds
    found = {}
    for case in cases:
        whole = times[f"{case.size}"]
        begun = times.get(f"{case.size}, begin", [0.0] * rounds)
        found[case.size] = [(a - b) / case.repeats for a, b in zip(whole, begun, strict=True)]
    return found


def main() -> int:
    asked = _arguments()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device is visible to torch", file=sys.stderr)
        return 2
    torch.set_num_threads(asked.threads)
    torch._dynamo.config.recompile_limit = 64  # every width is a variant of the compiled layer
    out: dict[str, Any] = {"about": about(asked.device, asked.threads), "tables": []}
    if asked.out and asked.out.exists():
        kept = json.loads(asked.out.read_text(encoding="utf-8"))["tables"]
        out["tables"] = [one for one in kept if one["by"] not in asked.tables]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        bench = Bench(asked.device, SIZES["tiny" if asked.tiny else asked.device], Path(folder))
        for by in asked.tables:
            for what, cases in TABLES[by](bench):
                record = _record(what, by, cases, seconds_of(cases, asked.rounds, asked.warmup))
                _show(record)
                out["tables"].append(record)
                if asked.out:  # after every table, so that a broken-off run keeps what it has
                    out["tables"].sort(key=lambda one: list(TABLES).index(one["by"]))
                    write_results(asked.out, out)
            release()
    return 0


def _record(what: str, by: str, cases: list[Case], seconds: dict[int, list[float]]) -> Any:
    calls = [case.calls for case in cases if case.calls is not None]
    return {
        "what": what,
        "by": by,
        "sizes": list(seconds),
        "median_s": [statistics.median(rounds) for rounds in seconds.values()],
        "layer_calls": calls or None,
        "seconds": list(seconds.values()),
    }


def _show(record: Any) -> None:
    before = None
    for i, (size, seconds) in enumerate(zip(record["sizes"], record["median_s"], strict=True)):
        times = "" if before is None else f"{seconds / before:6.2f}"
        calls = f"  {record['layer_calls'][i]:g} layer calls" if record["layer_calls"] else ""
        what = f"{record['what']} by {record['by']}"
        print(f"{what:36} {size:>6} {1e3 * seconds:10.3f} ms {times:>6}{calls}", flush=True)
        before = seconds


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("--device", choices=tuple(BATCHES), default="cpu")
    parser.add_argument("--tables", nargs="+", choices=tuple(TABLES), default=list(TABLES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="small sizes: does the command work?")
    parser.add_argument("--out", type=Path, help="a JSON file for every number")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
