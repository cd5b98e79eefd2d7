"""A sweep of plans over tasks: this engine against the stock harness, variant by variant.

    python -m benchmarks.painters --data DIR                         three benchmarks, every variant
    python -m benchmarks.painters --data DIR --limit 10 --seeds 2    a small run
    python -m benchmarks.painters --tasks addition --limit 20        without benchmark files

Every variant of the paper ("Transformer Layers as Painters") for every start layer. Requests and
tokens are prepared for both sides before the clock starts; seconds of the CPU are told beside those
of the wall, which on a shared machine say less. The stock side is the harness' `HFLM`
over `transformers`, whose layers are put into the variant's order; both sides are fp32. Log-
likelihoods are compared item by item, and the command fails where they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import Tensor, nn

import laminogram
from laminogram.evaluate.encode import Encoder, Row
from laminogram.evaluate.harness import harness
from laminogram.evaluate.packing import pack
from laminogram.evaluate.reading import Answer, read, sharing
from laminogram.evaluate.tasks import open_task
from laminogram.plans import Group, Plan, Step, builders
from laminogram.plans.tree import PlanTree

MODEL = Path(__file__).resolve().parents[1] / "zoo" / "small-llama"
TOLERANCE = 1e-4
"""Of the largest log-likelihood."""


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
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


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


def main() -> int:
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    view = laminogram.load(asked.model, dtype="fp32", device=asked.device)
    layers = len(view.config.layers)
    every = builders.variants(layers, seeds=range(asked.seeds))
    plans = list(dict.fromkeys(variant.plan for variant in every))
    documents = _documents(view, asked)
    rows = list(dict.fromkeys(row for own in documents for row in own))
    tree = PlanTree(plans)
    print(f"{len(plans)} plans, {len(rows)} rows, {sum(len(row.inputs) for row in rows)} tokens")
    ours, ours_s = _ours(view, plans, documents, asked.batch_tokens)
    theirs, theirs_s = _theirs(asked, plans, rows)
    apart = max(abs(ours[p][r][0] - theirs[p][r][0]) for p in range(len(plans)) for r in rows)
    apart /= max(abs(one[0]) for one in theirs[0].values())
    packs = pack(documents, asked.batch_tokens, share=sharing(view))
    read_once = sum(one.tokens for one in packs)
    for what in ("wall", "cpu"):
        new, old = getattr(ours_s, what), getattr(theirs_s, what)
        print(f"{what}: ours {new:.1f} s, stock {old:.1f} s: {old / new:.2f} times faster")
    print(f"tree: {tree}; tokens read {read_once}; largest difference {apart:.1e}")
    if asked.out:
        facts = {"plans": len(plans), "rows": len(rows), "apart": apart}
        facts |= {"ours": asdict(ours_s), "stock": asdict(theirs_s)}
        asked.out.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return 0 if apart < TOLERANCE else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--data", type=Path, help="a folder with one folder for each task")
    parser.add_argument("--tasks", nargs="+", default=["arc_easy", "winogrande", "lambada_openai"])
    parser.add_argument("--limit", type=int, default=100, help="documents of each task")
    parser.add_argument("--seeds", type=int, default=10, help="of the shuffled variants")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16, help="rows in a batch of the stock side")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="in a batch of ours")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    return parser.parse_args()


def _documents(view: laminogram.View, asked: argparse.Namespace) -> list[list[Row]]:
    """The rows of every document of every task."""
    encoder, found = Encoder(view), []
    for name in asked.tasks:
        begin = time.perf_counter()
        task = open_task(name, data=asked.data, limit=asked.limit)
        by_document: dict[int, list[Row]] = {}
        for request in task.requests:
            row = encoder.pair(request.context, request.continuation)
            by_document.setdefault(request.document, []).append(row)
        found += list(by_document.values())
        print(f"{name}: requests in {time.perf_counter() - begin:.1f} s")
    return found


def _ours(
    view: laminogram.View, plans: list[Plan], documents: list[list[Row]], batch_tokens: int
) -> tuple[list[dict[Row, Answer]], Spent]:
    """Every plan's answers and what they took."""
    packs = pack(documents, batch_tokens, share=sharing(view))
    tree = PlanTree(plans)
    found: list[dict[Row, Answer]] = [{} for _ in plans]
    spent = Spent()
    with spent.on():
        for one in packs:
            for number, reading in read(view, tree, one):
                found[number].update(zip(one.rows, reading.answers(), strict=True))
    return found, spent


def _theirs(
    asked: argparse.Namespace, plans: list[Plan], rows: list[Row]
) -> tuple[list[dict[Row, Answer]], Spent]:
    """The same by the stock harness, plan after plan."""
    model = transformers.AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    model.config.use_cache = False  # a layer that runs twice would meet its own keys
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(asked.model / "tokenizer.json"), eos_token="<|endoftext|>"
    )
    lm = harness("lm_eval.models.huggingface").HFLM(
        pretrained=model.to(asked.device), tokenizer=tokenizer, batch_size=asked.batch
    )
    requests = [(None, list(row.tokens[: -row.scored]), list(row.targets)) for row in rows]
    originals = list(model.model.layers)
    found, spent = [], Spent()
    for plan in plans:
        model.model.layers = nn.ModuleList(_layers(plan, originals))
        model.config.num_hidden_layers = len(model.model.layers)
        with spent.on():
            answers = lm._loglikelihood_tokens(requests, disable_tqdm=True)
        found.append(dict(zip(rows, answers, strict=True)))
    return found, spent


def _layers(plan: Plan, originals: list[nn.Module]) -> list[nn.Module]:
    return [_layer(item, originals) for item in plan.items]


def _layer(item: Step | Group, originals: list[nn.Module]) -> nn.Module:
    if isinstance(item, Step):
        return originals[item.layer]
    return Mean([_layers(branch, originals) for branch in item.branches])


if __name__ == "__main__":
    raise SystemExit(main())
