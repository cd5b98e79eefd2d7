"""Classifiers fine-tuned with their layers in another order: GLUE on an encoder, as in the paper.

    python experiments/painters/glue.py MODEL --data DIR --out FILE.jsonl [--frozen]

DIR holds glue_TASK/train.jsonl and validation.jsonl. Every plan is fine-tuned and judged under
itself. Rows are appended as they come; what is in the file is not computed again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import rows
import torch

import laminogram
from laminogram.plans import builders
from laminogram.train.classify import FineTuning, Judged, fine_tune, judge, read_examples

TASKS = ("cola", "rte", "sst2", "wnli")
VARIANTS = ("skip", "middle_repeat", "parallel", "reverse", "random", "looped")
RATES = {False: 5e-5, True: 3e-3}  # of full and of frozen runs


def main() -> None:
    """Command line: see the top of the file."""
    args = _arguments()
    view = laminogram.load(args.model, dtype="fp32", device=args.device)
    done = [row["key"] for row in rows.read(args.out)]
    for task in args.tasks:
        train = read_examples(args.data / f"glue_{task}" / "train.jsonl")[: args.most]
        held_out = read_examples(args.data / f"glue_{task}" / "validation.jsonl")
        part, parts = args.part
        for name, plan in _plans(view.config.num_layers, args.seeds)[part::parts]:
            key = [task, name, plan, args.frozen, args.seed]
            if key in done:
                continue
            how = FineTuning(
                epochs=args.epochs, lr=RATES[args.frozen], frozen=args.frozen, seed=args.seed
            )
            begin = time.perf_counter()
            tuned = fine_tune(view.using(plan=plan), train, how)
            found = judge(tuned, held_out)
            row = _row(key, found, how, len(train), time.perf_counter() - begin)
            rows.append(args.out, row)
            print(f"{task:5} {name:18} {plan:32} {found.accuracy:.4f} {found.matthews:+.4f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="an encoder with a pooler")
    parser.add_argument("--data", type=Path, required=True, help="folder with glue_TASK folders")
    parser.add_argument("--out", type=Path, required=True, help="where the rows go")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--frozen", action="store_true", help="train the classifier alone")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--most", type=int, default=20_000, help="training examples of a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3, help="shuffles of the random variant")
    parser.add_argument(
        "--part", nargs=2, type=int, default=(0, 1), help="plan I of every N: several at a time"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def _plans(layers: int, seeds: int) -> list[tuple[str, str]]:
    """The full plan, then each variant with every middle; a plan that has two names, once."""
    found = {str(builders.build("full", layers)): "full"}
    for variant in builders.variants(layers, seeds=range(seeds)):
        if variant.name in VARIANTS:
            found.setdefault(str(variant.plan), variant.name)
    return [(name, plan) for plan, name in found.items()]


def _row(
    key: list[Any], found: Judged, how: FineTuning, trained: int, seconds: float
) -> dict[str, Any]:
    return {
        "key": key,
        "accuracy": found.accuracy,
        "standard_error": found.standard_error,
        "matthews": found.matthews,
        "count": found.count,
        "right": "".join("01"[one] for one in found.right),
        "trained_on": trained,
        "epochs": how.epochs,
        "lr": how.lr,
        "seconds": round(seconds, 2),
    }


if __name__ == "__main__":
    main()
