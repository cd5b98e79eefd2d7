"""Every variant of the paper on held-out books and on sums, copies and sorted lists.

    python experiments/painters/measure.py MODEL --corpus DIR --work DIR [--out results]

Writes MODEL.csv, a row for each point of the paper's figures, and MODEL.json: the layers' groups,
what each layer turns, and the tasks at chance. What DIR (`--work`) holds is not computed again.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from pathlib import Path
from typing import Any

import books

import laminogram
from laminogram.evaluate.evaluate import Manner, evaluate
from laminogram.evaluate.summary import Share, Summary, summarise
from laminogram.evaluate.tasks import open_task
from laminogram.evaluate.text import Estimate
from laminogram.studies.painters import Painters, paint
from laminogram.studies.painters.points import Point
from laminogram.view import View

TASKS = ("addition", "copying", "sorting")
MEASURES = ("loss", "kl", "agreement", "share")


def main() -> None:
    """Command line: see the top of the file."""
    args = _arguments()
    view = laminogram.load(args.model, dtype="fp32")
    texts = books.passages(view, args.corpus, each=1, tokens=args.tokens)
    found = paint(view, texts=texts, seeds=args.seeds, work=args.work, say=print)
    summary = _tasks(view, found.points, args)
    args.out.mkdir(parents=True, exist_ok=True)
    _write_points(args.out / f"{view.name}.csv", found, summary)
    facts = json.dumps(_facts(found, summary), indent=1, ensure_ascii=False)
    (args.out / f"{view.name}.json").write_text(facts + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with *.val.jsonl.xz")
    parser.add_argument("--work", type=Path, required=True, help="results as they come")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--tokens", type=int, default=256, help="of each held-out book")
    parser.add_argument("--limit", type=int, default=100, help="problems of each task")
    parser.add_argument("--seeds", type=int, default=10, help="shuffles")
    return parser.parse_args()


def _tasks(view: View, points: tuple[Point, ...], args: argparse.Namespace) -> Summary:
    """The shares of every point, those of a shuffle averaged over seeds."""
    tasks = [open_task(name, limit=args.limit) for name in TASKS]
    chosen = {str(point): list(map(str, point.plans)) for point in points}
    plans = [plan for some in chosen.values() for plan in some]
    results = evaluate(view, tasks, plans, out=args.work / "tasks", manner=Manner(bos=True))
    return summarise(results, plans[0], chosen)


def _write_points(file: Path, found: Painters, summary: Summary) -> None:
    """Every measure with its interval and its spread over seeds; of the loss also how much it is
    above the full model's, with the interval of this difference."""
    measures = {one.key: one for one in found.measures if one.key in MEASURES}
    ends = [f"{key}{end}" for key in measures for end in ("", "_low", "_high", "_spread")]
    ends += [f"{key}{end}" for key in ("above", "median") for end in ("", "_low", "_high")]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        told = ("variant", "layer", "affected", "repeats", "layer_calls", "ms_per_token")
        writer.writerow([*told, *TASKS, *ends])
        for number, (point, line) in enumerate(zip(found.points, summary.lines, strict=True)):
            row: list[Any] = [point.variant, point.layer, point.affected, point.repeats]
            row += [point.layer_calls, found.pace.values[number].value]
            row += [line.scores[task] for task in TASKS]
            for one in measures.values():
                value = one.values[number]
                row += [value.value, value.low, value.high, one.spread[number]]
            for estimate in (measures["loss"].changes[number], line.median):
                row += _ends(estimate)
            writer.writerow([_short(one) for one in row])


def _ends(value: Estimate | Share | None) -> list[float | None]:
    return [None] * 3 if value is None else [value.value, value.low, value.high]


def _short(value: Any) -> Any:
    """Five significant digits; nothing for what is not there."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.5g}"
    return "" if value is None else value


def _facts(found: Painters, summary: Summary) -> dict[str, Any]:
    influence = [float(_short(one.value)) for one in found.influence.block_influence]
    return {
        "model": found.model,
        "text": found.text,
        "groups": [list(one) for one in found.similarity.groups],
        "groups_rule": found.similarity.groups_rule,
        "similarity": [[round(float(x), 4) for x in row] for row in found.similarity.per_token],
        "block_influence": influence,
        "ranking": list(found.ranking.layers) if found.ranking else None,
        "at_chance": [str(one) for one in summary.at_chance],
        "weights_hash": found.manifest["weights_hash"],
    }


if __name__ == "__main__":
    main()
