"""What a parallel group remembers: each layer its own keys and values, or the group their mean.

    python experiments/painters/caches.py MODEL --corpus DIR [--out results]

The paper's code keeps the mean. After a prompt of held-out text the rest is fed token by token
under both, so that every prediction is compared on the same tokens; then both continue the prompts
greedily, and write sums. Writes caches-MODEL.csv. For models with attention.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import books
import torch
from torch import Tensor

import laminogram
from laminogram.evaluate.divergence import compare
from laminogram.evaluate.problems import held_out_problems
from laminogram.infer.generate import Generations, generate
from laminogram.plans import Plan, builders
from laminogram.stack.batch import Batch
from laminogram.view import View


class Setting(NamedTuple):
    """A parallel middle of so many layers, run so often."""

    affected: int
    repeats: int
    plan: Plan


def main() -> None:
    """Command line: see the top of the file."""
    args = _arguments()
    view = laminogram.load(args.model, dtype="fp32")
    rows = books.passages(view, args.corpus, each=args.each, tokens=args.prompt + args.new)
    ids = torch.tensor(rows)
    found = []
    for setting in _settings(view.config.num_layers):
        exact, averaged = (view.using(plan=setting.plan, kv=kv) for kv in ("exact", "averaged"))
        row: dict[str, Any] = {"affected": setting.affected, "repeats": setting.repeats}
        row |= _forced(view, exact, averaged, ids, args.prompt)
        row |= _greedy(exact, averaged, [one[: args.prompt] for one in rows], args.new)
        row |= _sums(exact, averaged, args.sums)
        found.append(row)
        print(row, flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    _save(args.out / f"caches-{view.name}.csv", found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with *.val.jsonl.xz")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--each", type=int, default=3, help="prompts of each book")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens after it")
    parser.add_argument("--sums", type=int, default=200, help="sums to write")
    return parser.parse_args()


def _settings(layers: int) -> Iterator[Setting]:
    """Parallel once and three times, from the smallest middle to the largest."""
    for affected in range(1 if layers % 2 == 0 else 2, layers, 2):
        for repeats in (1, 3):
            plan = builders.build("looped", layers, affected=affected, repeats=repeats)
            yield Setting(affected, repeats, plan)


@torch.no_grad()
def _forced(view: View, exact: View, averaged: View, ids: Tensor, prompt: int) -> dict[str, float]:
    """Predictions after the prompt, on the text itself: KL(exact || averaged) with its standard
    error over passages, how often both agree, and the loss of either and of the full model."""
    inputs = view.tokens(ids[:, :-1])
    targets = ids[:, prompt + 1 :].flatten()
    full, first = (one.run(inputs)[:, prompt:].flatten(0, 1).double() for one in (view, exact))
    second = _step_by_step(averaged, ids[:, :-1], prompt).flatten(0, 1).double()
    between, base = compare(first, second, targets), compare(full, first, targets)
    of_passages = between["kl"].view(len(ids), -1).mean(1)
    return {
        "loss_full": float(base["loss_reference"].mean()),
        "loss_exact": float(between["loss_reference"].mean()),
        "loss_averaged": float(between["loss"].mean()),
        "kl": float(of_passages.mean()),
        "kl_error": float(of_passages.std() / math.sqrt(len(ids))),
        "agreement": float(between["agreement"].double().mean()),
    }


def _step_by_step(view: View, ids: Tensor, prompt: int) -> Tensor:
    """Logits (B, T - prompt, V) after each token behind the prompt, read one at a time."""
    cache = view.new_cache(len(ids))
    view.run(view.tokens(ids[:, :prompt]), cache=cache, logits="last")
    ones, pads = (1,) * len(ids), (0,) * len(ids)
    steps = ids[:, prompt:].split(1, 1)
    return torch.cat([view.run(Batch(one, ones, pads, 1), cache=cache) for one in steps], 1)


def _greedy(
    exact: View, averaged: View, prompts: Sequence[Sequence[int]], new: int
) -> dict[str, float]:
    """How alike greedy texts are: the mean number of tokens before the first that differs, and the
    share of texts that are equal to the end."""
    texts = []
    for view in (exact, averaged):
        made = generate(view, list(prompts), max_new_tokens=new, stop_at_eos=False)
        assert isinstance(made, Generations)
        texts.append(torch.tensor([one.tokens for one in made]))
    same = (texts[0] == texts[1]).long().cumprod(1).sum(1).double()
    return {"same_tokens": float(same.mean()), "same_texts": float((same == new).double().mean())}


def _sums(exact: View, averaged: View, count: int) -> dict[str, float]:
    """The share of held-out sums of two numbers that are written right, the line's end included."""
    problems = held_out_problems("addition", count)
    found = {}
    for name, view in (("exact", exact), ("averaged", averaged)):
        made = generate(view, [one.prompt for one in problems], max_new_tokens=5, bos=True)
        assert isinstance(made, Generations)
        right = [str(one).startswith(p.answer) for one, p in zip(made, problems, strict=True)]
        found[f"sums_{name}"] = sum(right) / count
    return found


def _save(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{value:.5g}" for name, value in row.items()})


if __name__ == "__main__":
    main()
