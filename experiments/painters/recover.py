"""How many steps of training bring a rewired model back to what it was.

    python experiments/painters/recover.py MODEL --tokens DIR --out FILE.jsonl [--steps 400]

Every plan is trained from the model's own weights under itself, on the same blocks, and its loss on
held-out blocks is taken as it goes. `--tokens` holds encoded shards (zoo/prepare.py); of the last
one all blocks are trained on but the last ones, which are held out. The zoo's models have read all.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import laminogram
from laminogram.plans import builders
from laminogram.view import View

ROWS, WIDTH, HELD_OUT = 32, 257, 64


def main() -> None:
    """Command line: see the top of the file."""
    args = _arguments()
    view = laminogram.load(args.model, dtype="fp32", device=args.device)
    blocks, held_out = _blocks(args.tokens, args.device)
    layers = view.config.num_layers
    begin = max(1, round(layers * args.begin))
    full = _loss(view, held_out)
    for name, plan in _plans(layers, begin).items():
        rewired = view.using(plan=plan)
        row = {"model": view.name, "variant": name, "plan": str(rewired.plan), "full": full}
        row |= {"lr": args.lr, "rows": ROWS, "tokens": WIDTH - 1}
        row["curve"] = _train(rewired, blocks, held_out, args)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(
            f"{view.name} {name:14} {row['plan']:28} full {full:.4f}", row["curve"][0], flush=True
        )
        print("   ", row["curve"][-1], flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of encoded shards")
    parser.add_argument("--out", type=Path, required=True, help="where the rows go")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=20, help="steps between two measures")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument(
        "--begin", type=float, default=0.25, help="share of layers before the middle"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def _plans(layers: int, start: int) -> dict[str, Any]:
    """The full plan, and each variant of the paper with the middle after `start` layers."""
    names = ("full", "skip", "middle_repeat", "parallel", "looped", "reverse", "random")
    known = builders.variants(layers, start=start - 1, seeds=(0,))
    return {name: next(one.plan for one in known if one.name == name) for name in names}


def _blocks(tokens: Path, device: str) -> tuple[Tensor, Tensor]:
    """Blocks (N, WIDTH) to train on, shuffled, and held-out ones."""
    ids = np.fromfile(sorted(tokens.glob("*.bin"))[-1], dtype=np.uint16)
    rows = torch.from_numpy(ids[: len(ids) // WIDTH * WIDTH].astype(np.int64)).view(-1, WIDTH)
    order = torch.randperm(len(rows) - HELD_OUT, generator=torch.Generator().manual_seed(0))
    return rows[:-HELD_OUT][order].to(device), rows[-HELD_OUT:].to(device)


def _train(view: View, blocks: Tensor, held_out: Tensor, args: argparse.Namespace) -> list[Any]:
    """[step, held-out loss] as training goes on, from a copy of the weights."""
    view = View(copy.deepcopy(view.stack), view.tokenizer, view.name, view.plan)
    optimiser = torch.optim.AdamW(view.stack.parameters(), lr=args.lr, weight_decay=0.0)
    curve = [[0, _loss(view, held_out)]]
    for step in range(1, args.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = args.lr * min(1.0, step / 20)
        start = (step - 1) * ROWS % (len(blocks) - ROWS)
        loss = _nats(view, blocks[start : start + ROWS])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(view.stack.parameters(), 1.0)
        optimiser.step()
        if step % args.every == 0:
            curve.append([step, _loss(view, held_out)])
    return curve


def _nats(view: View, rows: Tensor) -> Tensor:
    logits = view.run(view.tokens(rows[:, :-1]))
    return F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


@torch.no_grad()
def _loss(view: View, rows: Tensor) -> float:
    return float(torch.stack([_nats(view, part) for part in rows.split(ROWS)]).mean())


if __name__ == "__main__":
    main()
