"""A sweep of plans over tasks: this engine against the stock harness, variant by variant.

    python -m benchmarks.painters --data DIR                        three benchmarks, every variant
    python -m benchmarks.painters --data DIR --limit 10 --seeds 2   a small run
    python -m benchmarks.painters --data DIR --only-requests DIR    for a machine without benchmarks
    python -m benchmarks.painters --requests DIR --device cuda --size 1.1b

Every variant of the paper ("Transformer Layers as Painters") for every start layer from 1 on. Some
variants are the same plan (a shuffle of two layers has two outcomes, whatever the seed): this
engine runs it once, the harness, variant by variant, each time; its seconds of an equal plan are
counted again without running it again, and the comparison with equal plans once on either side is
told too. Model time: requests and tokens are prepared for both before the clock starts. Total time
adds what prepares them, which is done once here and once a variant there.
Seconds of the CPU are told beside those of the wall, which on a shared machine say less. The stock
side is the harness' `HFLM` over `transformers`, whose layers are put into the variant's order, with
the fastest of some batch sizes; both sides have one dtype. Tasks take turns. Log-likelihoods are
compared item by item, and the command fails where they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import Tensor, nn

import laminogram
from benchmarks import shapes
from laminogram.evaluate.encode import Encoder, Row
from laminogram.evaluate.harness import harness
from laminogram.evaluate.packing import Pack, pack
from laminogram.evaluate.reading import Answer, read, sharing
from laminogram.evaluate.requests import Requests, load_requests
from laminogram.evaluate.tasks import open_task
from laminogram.plans import Group, Plan, Step, builders
from laminogram.plans.tree import PlanTree

SMALL = Path(__file__).resolve().parents[1] / "zoo" / "small-llama"
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Of the largest log-likelihood."""
BATCHES = {"cpu": (8, 16, 32), "cuda": (32, 64, 128)}
"""Rows in a batch of the stock side, of which the fastest is taken."""
BATCH_TOKENS = {"cpu": 512, "cuda": 16384}


@dataclass
class Spent:
    """Seconds by the clock on the wall and of the processor, all threads together."""

    wall: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def on(self) -> Iterator[None]:
        """Count what the block takes."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu

    def add(self, other: Spent, times: int = 1) -> None:
        """Count another's seconds, some times."""
        self.wall += times * other.wall
        self.cpu += times * other.cpu


@dataclass
class Race:
    """One task on both sides: model time, time that prepares it, and how far answers lie apart."""

    task: str
    rows: int = 0
    ours: Spent = field(default_factory=Spent)
    stock: Spent = field(default_factory=Spent)
    stock_once: Spent = field(default_factory=Spent)
    requests: Spent = field(default_factory=Spent)
    tokens: Spent = field(default_factory=Spent)
    packs: Spent = field(default_factory=Spent)
    apart: float = 0.0

    def totals(self, variants: int) -> tuple[float, float]:
        """Seconds on the wall with all preparations: once, and once a variant."""
        texts = self.requests.wall + self.tokens.wall
        return texts + self.packs.wall + self.ours.wall, variants * texts + self.stock.wall


class Mean(nn.Module):
    """A group of decoder layers that read the same input, their outputs averaged."""

    def __init__(self, branches: Sequence[Sequence[nn.Module]]) -> None:
        super().__init__()
        self.branches = branches  # a plain list: the layers belong to the model

    def forward(self, hidden: Tensor, **how: Any) -> Tensor:
        outs = []
        for branch in self.branches:
            out = hidden
            for layer in branch:
                out = layer(out, **how)
            outs.append(out)
        return torch.stack(outs).mean(0)


class Stock:
    """The harness' own Hugging Face model, its layers put into any plan's order."""

    def __init__(self, path: Path, view: laminogram.View, device: str) -> None:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=view.stack.dtype)
        model.config.use_cache = False  # a layer that runs twice would meet its own keys
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(SMALL / "tokenizer.json"), eos_token="<|endoftext|>"
        )
        self._lm = harness("lm_eval.models.huggingface").HFLM(
            pretrained=model.to(device), tokenizer=tokenizer, batch_size=1
        )
        self._model, self._originals = model, list(model.model.layers)
        self._full = Plan.full(len(self._originals))

    @property
    def batch(self) -> int:
        """Rows in a batch."""
        rows: int = self._lm.batch_size_per_gpu
        return rows

    def choose(self, documents: Sequence[Sequence[Row]], sizes: Sequence[int]) -> None:
        """Take the batch size that is fastest for some rows, of two runs each."""
        rows = list(dict.fromkeys(row for own in documents for row in own))
        found = {}
        for size in sizes:
            self._lm.batch_size_per_gpu, times = size, []
            for _ in range(2 if len(sizes) > 1 else 1):
                spent = Spent()
                self.answers(self._full, rows, spent)
                times.append(spent.wall)
            found[size] = min(times)
        self._lm.batch_size_per_gpu = min(found, key=lambda size: found[size])
        said = ", ".join(f"{size}: {seconds:.2f} s" for size, seconds in found.items())
        print(f"stock, rows in a batch and seconds of one variant: {said}")

    def answers(self, plan: Plan, rows: Sequence[Row], spent: Spent) -> dict[Row, Answer]:
        """What one plan answers, and what it took."""
        model = self._model
        requests = [(None, list(row.tokens[: -row.scored]), list(row.targets)) for row in rows]
        model.model.layers = nn.ModuleList(_layers(plan, self._originals))
        model.config.num_hidden_layers = len(model.model.layers)
        with spent.on():
            found = self._lm._loglikelihood_tokens(requests, disable_tqdm=True)
        return dict(zip(rows, found, strict=True))


def main() -> int:
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    dtype = torch.float32 if asked.size == "small" else torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        path = SMALL
        if asked.size != "small":
            path = shapes.write(f"llama-{asked.size}", dtype, Path(folder))
        view = laminogram.load(path, dtype=dtype, device=asked.device)
        if asked.size != "small":
            view = replace(view, tokenizer=laminogram.load(SMALL).tokenizer)
        return _run(asked, view, path)


def _run(asked: argparse.Namespace, view: laminogram.View, path: Path) -> int:
    every = builders.variants(len(view.config.layers), seeds=range(asked.seeds))
    plans = Counter(one.plan for one in every if one.settings.get("start") != 0)
    tree = PlanTree(list(plans))
    prepared = [_prepared(view, asked, name) for name in asked.tasks]
    if asked.only_requests:
        return 0
    print(f"{plans.total()} variants are {tree}")
    print(f"{asked.device}, {view.stack.dtype}, {asked.threads} threads")
    stock = Stock(path, view, asked.device)
    stock.choose(prepared[0][1], asked.batch or BATCHES[asked.device])
    budget = asked.batch_tokens or BATCH_TOKENS[asked.device]
    for race, documents in prepared:
        with race.packs.on():
            packs = pack(documents, budget, share=sharing(view))
        warm = PlanTree(tree.plans[:1])
        for one in packs[:1]:
            list(read(view, warm, one))
        ours = _ours(view, tree, packs, race.ours)
        _compare(race, plans, ours, stock)
        _say(race.task, [race], plans.total())
    races = [race for race, _ in prepared]
    _say("all tasks", races, plans.total())
    if asked.out:
        facts = {"tree": str(tree), "plans": len(plans), "variants": plans.total()}
        facts |= {"batch": stock.batch, "budget": budget}
        facts |= {"device": _device(asked), "dtype": str(view.stack.dtype), "size": asked.size}
        facts["tasks"] = [asdict(race) for race in races]
        asked.out.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return 0 if max(race.apart for race in races) < TOLERANCE[view.stack.dtype] else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=("small", "125m", "1.1b"), default="small")
    parser.add_argument("--data", type=Path, help="a folder with one folder for each task")
    parser.add_argument("--requests", type=Path, help="a folder of requests instead of data")
    parser.add_argument("--only-requests", type=Path, help="write the requests there, and stop")
    parser.add_argument("--tasks", nargs="+", default=["arc_easy", "winogrande", "lambada_openai"])
    parser.add_argument("--limit", type=int, default=100, help="documents of each task")
    parser.add_argument("--seeds", type=int, default=10, help="of the shuffled variants")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", help="rows in a batch of the stock side")
    parser.add_argument("--batch-tokens", type=int, help="in a batch of ours")
    parser.add_argument("--device", choices=tuple(BATCHES), default="cpu")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    return parser.parse_args()


def _prepared(
    view: laminogram.View, asked: argparse.Namespace, name: str
) -> tuple[Race, list[list[Row]]]:
    """A task and the rows of every document of it."""
    race, encoder = Race(name), Encoder(view)
    with race.requests.on():
        requests = _requests(asked, name)
    if asked.only_requests:
        asked.only_requests.mkdir(parents=True, exist_ok=True)
        requests.save(asked.only_requests / f"{name}.json")
    by_document: dict[int, list[Row]] = {}
    with race.tokens.on():
        for request in requests:
            row = encoder.pair(request.context, request.continuation)
            by_document.setdefault(request.document, []).append(row)
    return race, list(by_document.values())


def _requests(asked: argparse.Namespace, name: str) -> Requests:
    if not asked.requests:
        return open_task(name, data=asked.data, limit=asked.limit).requests
    known = load_requests(asked.requests / f"{name}.json")
    items = tuple(one for one in known if one.document < asked.limit)
    return Requests(known.task, known.version, items)


def _ours(
    view: laminogram.View, tree: PlanTree, packs: Sequence[Pack], spent: Spent
) -> list[dict[Row, Answer]]:
    """Every plan's answers and what they took."""
    found: list[dict[Row, Answer]] = [{} for _ in tree.plans]
    with spent.on():
        for one in packs:
            for number, reading in read(view, tree, one):
                found[number].update(zip(one.rows, reading.answers(), strict=True))
    return found


def _compare(
    race: Race, plans: Mapping[Plan, int], ours: Sequence[dict[Row, Answer]], stock: Stock
) -> None:
    """The same by the stock harness, plan after plan; `plans` with how many variants each is."""
    for (plan, variants), own in zip(plans.items(), ours, strict=True):
        spent = Spent()
        theirs = stock.answers(plan, list(own), spent)
        race.stock_once.add(spent)
        race.stock.add(spent, variants)
        largest = max(abs(found) for found, _ in theirs.values())
        apart = max(abs(own[row][0] - found) for row, (found, _) in theirs.items())
        race.apart = max(race.apart, apart / largest)
    race.rows = len(ours[0])


def _say(name: str, races: Sequence[Race], variants: int) -> None:
    """Model time and total time of both sides."""
    for what in ("wall", "cpu"):
        ours, stock, once = (
            sum(getattr(getattr(race, side), what) for race in races) for side in _SIDES
        )
        ratio = f"{stock / ours:.2f} times faster ({once / ours:.2f} with equal plans once)"
        print(f"{name}: model time ({what}): ours {ours:.1f} s, stock {stock:.1f} s: {ratio}")
    ours, stock = map(sum, zip(*(race.totals(variants) for race in races), strict=True))
    print(f"{name}: total time: ours {ours:.1f} s, stock {stock:.1f} s; ", end="")
    print(f"{sum(r.rows for r in races)} rows, apart {max(r.apart for r in races):.1e}", flush=True)


_SIDES = ("ours", "stock", "stock_once")


def _device(asked: argparse.Namespace) -> str:
    if asked.device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {asked.threads} threads"


def _layers(plan: Plan, originals: list[nn.Module]) -> list[nn.Module]:
    return [_layer(item, originals) for item in plan.items]


def _layer(item: Step | Group, originals: list[nn.Module]) -> nn.Module:
    if isinstance(item, Step):
        return originals[item.layer]
    return Mean([_layers(branch, originals) for branch in item.branches])


if __name__ == "__main__":
    raise SystemExit(main())
