"""The rows of `glue.py` and `recover.py` as small tables.

    python experiments/painters/merge.py glue FILE.jsonl ... --data DIR [--out results]
    python experiments/painters/merge.py recover FILE.jsonl ... [--out results]

glue.csv has a line for each fine-tuned plan, without what single examples gave; DIR holds the
labels by which Matthews' correlation gets its standard error. recover.csv has a line for each
variant of each model (see `recovery.py`); a step that one run was judged at and another was not is
an empty field.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import rows
from recovery import recoveries

from laminogram.plans import Plan, builders
from laminogram.train.classify import read_examples

REPLICATES = 1000


def main() -> None:
    """Command line: see the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("glue", "recover"))
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, help="folder with glue_TASK folders")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if args.what == "glue" and args.data is None:
        parser.error("glue needs --data for the labels")
    found = rows.read(*args.files)
    made = _glue(found, args.data) if args.what == "glue" else recoveries(found)
    columns = list(dict.fromkeys(name for row in made for name in row))
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / f"{args.what}.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(made)
    print(f"{args.what}.csv: {len(made)} lines")


def _glue(found: list[dict[str, Any]], data: Path) -> list[dict[str, Any]]:
    by_key = {tuple(row["key"]): row for row in found}
    full = next(Plan.of(plan) for _, variant, plan, *_ in by_key if variant == "full")
    affected = _affected(len(full))
    labels: dict[str, np.ndarray] = {}
    made = []
    for (task, variant, plan, frozen, seed), row in sorted(by_key.items()):
        if task not in labels:
            examples = read_examples(data / f"glue_{task}" / "validation.jsonl")
            labels[task] = np.array([one.label for one in examples])
        right = np.array([one == "1" for one in row["right"]])
        matthews, error = _matthews(labels[task], right)
        if abs(matthews - row["matthews"]) > 1e-9:
            raise ValueError(f"{row['key']}: its labels are not those of {data}")
        majority = max(float((labels[task] == one).mean()) for one in (0, 1))
        made.append(
            {
                "task": task,
                "frozen": int(frozen),
                "variant": variant,
                "affected": affected.get((variant, plan)),
                "plan": plan,
                "seed": seed,
                "accuracy": f"{row['accuracy']:.5f}",
                "accuracy_error": f"{row['standard_error']:.5f}",
                "majority": f"{majority:.5f}",
                "matthews": f"{matthews:.5f}",
                "matthews_error": f"{error:.5f}",
                "count": row["count"],
                "trained_on": row["trained_on"],
            }
        )
    return made


def _affected(layers: int) -> dict[tuple[str, str], int]:
    """How many layers the middle of a variant's plan has, M; of a shuffle the fewest that give it,
    as in `glue.py`."""
    found: dict[tuple[str, str], int] = {}
    for one in builders.variants(layers):
        if "start" in one.settings:
            m = layers - 2 * one.settings["start"] - 1
            key = one.name, str(one.plan)
            found[key] = min(m, found.get(key, m))
    return found


def _matthews(labels: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Matthews' correlation of two classes, and its standard error over resampled examples."""
    cells = np.stack([(labels == k) & (right == r) for k in (0, 1) for r in (True, False)])
    drawn = np.random.default_rng(0).multinomial(len(labels), cells.mean(1), size=REPLICATES)
    return float(_phi(cells.sum(1))), float(_phi(drawn).std())


def _phi(counts: np.ndarray) -> np.ndarray:
    """From counts (..., 4): class 0 right and wrong, class 1 right and wrong; 0 where undefined."""
    low, missed_low, high, missed_high = np.moveaxis(counts.astype(float), -1, 0)
    said_low, said_high = low + missed_high, high + missed_low
    below = np.sqrt(said_low * said_high * (low + missed_low) * (high + missed_high))
    return np.divide(
        low * high - missed_low * missed_high, below, out=np.zeros_like(below), where=below > 0
    )


if __name__ == "__main__":
    main()
