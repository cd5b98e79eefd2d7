"""How many steps of training bring a rewired model back to what it was.

    python experiments/painters/recover.py MODEL --corpus DIR --out FILE.jsonl [--middles 1 3]

Every plan is trained under itself from the model's own weights, and so is the full one: what a
variant must come near is a model that was trained as long, at the rate that suits it best. With the
first seed each of `--rates` is tried for `--trial` steps, and the one goes on that does best on
passages kept for this choice; other seeds train at that rate. A seed orders the blocks of text, and
they are the same for all plans. Training text is the first training books, which the zoo's models
have read; losses are of held-out books, which they have not. Rows are appended as they come; what
is in the file is not computed again, so each file is for runs of one length.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import books
import rows
import torch
import torch.nn.functional as F
from torch import Tensor

import laminogram
from laminogram.plans import Plan, builders
from laminogram.view import View

VARIANTS = ("looped", "random", "reverse", "parallel", "skip", "middle_repeat")
FULL = "full"
WARM_UP = 5
"""Steps until the rate is whole."""
CHOICE, JUDGED = 1, 2
"""Passages of each held-out book by which the rate is chosen, and on which losses are told."""


class Condition(NamedTuple):
    """A variant with the number of layers in its middle; 0 for the full plan."""

    variant: str
    affected: int
    plan: Plan


class Text(NamedTuple):
    """Blocks to train on (N, T + 1), and passages (books, each, T + 1) that no model has read."""

    blocks: Tensor
    choice: Tensor
    judged: Tensor


class Run:
    """One training run, from a copy of the weights of `view`, at one rate, on blocks in order."""

    def __init__(self, view: View, blocks: Tensor, rate: float, batch: int) -> None:
        self.view = View(copy.deepcopy(view.stack), view.tokenizer, view.name, view.plan)
        self.rate, self.step = rate, 0
        self.curve: list[tuple[int, list[float]]] = []
        self._batches = blocks.split(batch)
        parameters = self.view.stack.parameters()
        self._optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)

    def until(self, last: int, at: Sequence[int], judged: Tensor) -> Run:
        """Train up to a step, and keep (step, loss of each book) at 0 and at those of `at`."""
        if self.step == 0:
            self._judge(judged)
        while self.step < last:
            self.step += 1
            for group in self._optimiser.param_groups:
                group["lr"] = self.rate * min(1.0, self.step / WARM_UP)
            loss = _nats(self.view, self._batches[self.step - 1]).mean()
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.view.stack.parameters(), 1.0)
            self._optimiser.step()
            if self.step in at:
                self._judge(judged)
        return self

    def _judge(self, judged: Tensor) -> None:
        self.curve.append((self.step, [round(one, 5) for one in losses(self.view, judged)]))


def main() -> None:
    """Command line: see the top of the file."""
    args = _arguments()
    view = laminogram.load(args.model, dtype="fp32", device=args.device)
    text = _text(view, args)
    part, parts = args.part
    for one in _conditions(view.config.num_layers, args.middles)[part::parts]:
        for seed in range(args.seeds):
            _condition(view, one, seed, text, args)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder with *.train.*.jsonl.xz, *.val.jsonl.xz"
    )
    parser.add_argument("--out", type=Path, required=True, help="where the rows go")
    parser.add_argument("--middles", type=int, nargs="+", default=[1, 3], help="layers affected, M")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3])
    parser.add_argument("--trial", type=int, default=40, help="steps after which a rate is chosen")
    parser.add_argument(
        "--at", type=int, nargs="+", default=[5, 10, 20, 40, 80], help="steps to judge at, after 0"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=8, help="blocks of a step")
    parser.add_argument("--tokens", type=int, default=128, help="of a block")
    parser.add_argument(
        "--part", nargs=2, type=int, default=(0, 1), help="plan I of every N: several at a time"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def _conditions(layers: int, middles: Sequence[int]) -> list[Condition]:
    """The full plan, then each variant with every middle; a plan that has two names, once."""
    found = {builders.build("full", layers): (FULL, 0)}
    for affected in middles:
        for variant in VARIANTS:
            seed = {"seed": 0} if variant == "random" else {}
            plan = builders.build(variant, layers, affected=affected, **seed)
            found.setdefault(plan, (variant, affected))
    return [Condition(*name, plan) for plan, name in found.items()]


def _text(view: View, args: argparse.Namespace) -> Text:
    long = args.tokens + 1
    ids = books.stream(view, args.corpus, max(args.at) * args.rows * long)
    each = CHOICE + JUDGED
    held_out = torch.tensor(books.passages(view, args.corpus, each=each, tokens=long))
    held_out = held_out.view(-1, each, long).to(args.device)
    blocks = torch.tensor(ids, device=args.device).view(-1, long)
    return Text(blocks, held_out[:, :CHOICE], held_out[:, CHOICE:])


def _condition(view: View, one: Condition, seed: int, text: Text, args: argparse.Namespace) -> None:
    """Train one plan with one seed and add its row, unless it is there."""
    key, known = [view.name, *one[:2], str(one.plan), seed], rows.read(args.out)
    if any(row["key"] == key for row in known):
        return
    begin = time.perf_counter()
    order = torch.randperm(len(text.blocks), generator=torch.Generator().manual_seed(seed))
    blocks = text.blocks[order.to(text.blocks.device)]
    first = next((row for row in known if row["key"] == [*key[:-1], 0]), None)
    rates = args.rates if first is None else [first["rate"]]
    rewired = view.using(plan=one.plan)
    runs = [
        Run(rewired, blocks, rate, args.rows).until(args.trial, args.at, text.judged)
        for rate in rates
    ]
    tried = [sum(losses(run.view, text.choice)) / len(text.choice) for run in runs]
    best = runs[tried.index(min(tried))].until(max(args.at), args.at, text.judged)
    row = {"key": key, "rate": best.rate, "tried": dict(zip(map(str, rates), tried, strict=True))}
    row |= {"rows": args.rows, "tokens": args.tokens, "curve": best.curve}
    rows.append(args.out, row | {"seconds": round(time.perf_counter() - begin, 1)})
    ends = [sum(best.curve[i][1]) / len(best.curve[i][1]) for i in (0, -1)]
    print(*key, f"rate {best.rate:g}: {ends[0]:.3f} -> {ends[1]:.3f}", flush=True)


@torch.no_grad()
def losses(view: View, passages: Tensor) -> list[float]:
    """The mean loss of each book, from passages (books, each, T + 1)."""
    found = [_nats(view, part).mean(1) for part in passages.flatten(0, 1).split(32)]
    of_books: list[float] = torch.cat(found).view(passages.shape[:2]).mean(1).tolist()
    return of_books


def _nats(view: View, blocks: Tensor) -> Tensor:
    """-log q of each token after the first (N, T)."""
    logits = view.run(view.tokens(blocks[:, :-1]))
    targets = blocks[:, 1:]
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view(
        targets.shape
    )


if __name__ == "__main__":
    main()
