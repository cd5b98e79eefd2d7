"""Plans: a tree of many against one after the other, a parallel group at once against its layers.

    python -m benchmarks.plans                    on the CPU, fp32, two threads
    python -m benchmarks.plans --device cuda      bf16
    python -m benchmarks.plans --size tiny --rounds 1

Every variant of the paper ("Transformer Layers as Painters") for every start layer, on a stack of
12 layers and one of 32; then a mean of 16 layers, while a prompt is read and while decoding. Both
ways are interleaved and their results compared. Random weights: the cost does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from benchmarks.timing import Times, interleave
from laminogram import families
from laminogram.plans import Plan, builders
from laminogram.plans.tree import PlanTree
from laminogram.stack import together
from laminogram.stack.stack import Stack
from laminogram.view import View

SIZES = {"tiny": (64, 4), "cpu": (256, 8), "cuda": (2048, 32)}
"""Channels and heads by `--size`."""
ROWS = ("tree-12", "tree-32", "mean")
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Row:
    """What was compared: a name, both times, the largest difference, and what to say of it."""

    name: str
    times: Times
    apart: float
    note: str

    def __str__(self) -> str:
        new, old = self.times.seconds
        cells = [self.name, f"{1e3 * self.times.median(new):.1f}"]
        cells += [f"{1e3 * self.times.median(old):.1f}", f"{self.times.ratio(new, old):.2f}"]
        return "| " + " | ".join([*cells, self.note]) + " |"


def main() -> int:
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    size = SIZES[asked.size or asked.device]
    print(
        "| row | ms | one by one, ms | ratio | note |\n| --- | --- | --- | --- | --- |", flush=True
    )
    rows = []
    with torch.no_grad():
        for row in _rows(asked, size):
            print(row, flush=True)
            rows.append(row)
    if asked.out:
        raw = {row.name: {"seconds": row.times.seconds, "note": row.note} for row in rows}
        asked.out.write_text(json.dumps(raw, indent=1), encoding="utf-8")
    dtype = torch.float32 if asked.device == "cpu" else torch.bfloat16
    wrong = [row for row in rows if row.apart > TOLERANCE[dtype]]
    for row in wrong:
        print(f"{row.name}: the two ways differ by {row.apart:.1e} of the largest")
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=tuple(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="which of them")
    parser.add_argument("--out", type=Path, help="a JSON file for the raw numbers")
    return parser.parse_args()


def _rows(asked: argparse.Namespace, size: tuple[int, int]) -> Iterator[Row]:
    for layers in (12, 32):
        if f"tree-{layers}" in asked.rows:
            yield _tree(_view(layers, size, asked.device), layers, asked.rounds)
    if "mean" not in asked.rows:
        return
    view = _view(18, size, asked.device)
    for tokens in (1, 16, 64, 256, 1024):
        yield _mean(view, tokens, 4 * asked.rounds)


def _view(layers: int, size: tuple[int, int], device: str) -> View:
    """A Llama of that many layers with random weights."""
    channels, heads = size
    settings = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 1024,
        "hidden_size": channels,
        "intermediate_size": 8 * channels // 3 // 8 * 8,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    stack = Stack(families.find(settings).config(settings), device=device, dtype=dtype).eval()
    generator = torch.Generator(device).manual_seed(1)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
    return View(stack, None, "llama", stack.full_plan())


def _ids(view: View, rows: int, tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, view.config.vocab_size, (rows, tokens), generator=generator)


def _tree(view: View, layers: int, rounds: int) -> Row:
    """All variants over one batch. Some plans are equal, and are run once both ways."""
    every = [variant.plan for variant in builders.variants(layers)]
    plans = list(dict.fromkeys(every))
    batch = view.tokens(_ids(view, 1, 128))
    views = [view.using(plan=plan) for plan in plans]
    tree = PlanTree(plans)

    def at_once() -> dict[int, torch.Tensor]:
        return dict(view.sweep(tree, batch, logits="last"))

    def one_by_one() -> dict[int, torch.Tensor]:
        return {i: one.run(batch, logits="last") for i, one in enumerate(views)}

    new, old = at_once(), one_by_one()
    apart = max(_apart(new[i], old[i]) for i in old)
    times = interleave({"tree": at_once, "apart": one_by_one}, rounds=rounds, warmup=0)
    note = f"{tree}. With equal plans counted: {PlanTree(every)}"
    return Row(f"tree, {layers} layers, 128 tokens", times, apart, note)


def _mean(view: View, tokens: int, rounds: int) -> Row:
    """A group of 16 layers: together, and with that switched off."""
    plan = view.using(plan=Plan.parse("0, mean(1-16), 17"))
    ids = _ids(view, 1, tokens + 16)
    prompt, later = plan.tokens(ids[:, :16]), plan.tokens(ids[:, 16:])

    def joint() -> torch.Tensor:
        return _with_limit(1 << 30, run)

    def apart() -> torch.Tensor:
        return _with_limit(0, run)

    def run() -> torch.Tensor:
        if tokens > 1:
            return plan.run(later, logits="last")
        cache.lengths = [16] * len(cache.lengths)
        return plan.run(later, cache=cache, logits="last")

    cache = plan.new_cache(1, capacity=tokens + 16)
    plan.run(prompt, cache=cache)
    distance = _apart(joint(), apart())
    times = interleave({"together": joint, "apart": apart}, rounds=rounds)
    what = "one decoded token" if tokens == 1 else f"{tokens} tokens"
    limit = together.MOST_TOKENS.get(view.device.type, 0)
    note = "done together" if tokens <= limit else "done one by one"
    return Row(f"mean of 16 layers, {what}", times, distance, note)


def _with_limit(limit: int, work: Callable[[], torch.Tensor]) -> torch.Tensor:
    usual = dict(together.MOST_TOKENS)
    together.MOST_TOKENS.update(dict.fromkeys(usual, limit))
    try:
        return work()
    finally:
        together.MOST_TOKENS.update(usual)


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


if __name__ == "__main__":
    raise SystemExit(main())
