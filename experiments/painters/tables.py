"""The tables of the page as Markdown, made from `results/`.

python experiments/painters/tables.py
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from figures import MODELS, VARIANTS, Row, facts, mean_of_plans, table
from recovery import LEFT, MARGINS

ABOVE_CHANCE = 5
JUDGED = {"tiny": (0, 10, 20, 40, 80), "small": (0, 10, 40, 150, 600)}
"""The steps of recover.csv that are told, by the first word of the models' names."""
TASKS = ("addition", "copying", "sorting")


def main() -> None:
    """Print all of them."""
    for model in MODELS:
        _show(f"{model}: loss above full, nats a token", _losses(model))
        _show(f"{model}: median share of the tasks", _shares(model))
        _show(f"{model}: one layer", _layers(model))
    _show("order against depth", _order())
    _show("single tasks at M = 3", _tasks())
    _show("caches", _caches())
    for frozen in (0, 1):
        _show("classifier alone" if frozen else "all weights", _glue(frozen))
    _show("at chance", _at_chance())
    _show("iterations", _iterations())
    _show("wall time", _time())
    for pair, steps in JUDGED.items():
        rows = [row for row in table("recover") if row["model"].startswith(pair)]
        _show(f"recover, {pair} pair", _recover(rows, steps))
        _show(f"recover, {pair} pair, the full plan", _controls(rows, steps))
    _show("recover, M = 7", _recover_long())


def _show(title: str, rows: Iterator[Sequence[Any]]) -> None:
    head, *body = [[str(one) for one in row] for row in rows]
    print(f"\n### {title}\n")
    for row in (head, ["---"] * len(head), *body):
        print(f"| {' | '.join(row)} |")


def _of(rows: Sequence[Row], variant: str, place: str, at: float) -> Row:
    return next(row for row in rows if row["variant"] == variant and row[place] == at)


def _middles(rows: Sequence[Row]) -> list[float]:
    return sorted({row["affected"] for row in rows if row["affected"] is not None})


def _losses(model: str) -> Iterator[Sequence[Any]]:
    rows = table(model)
    yield ["variant", *(f"M = {m:g}" for m in _middles(rows))]
    for variant in VARIANTS:
        found = (_of(rows, variant, "affected", m)["above"] for m in _middles(rows))
        yield [variant, *(f"{above:z.2f}" for above in found)]


def _shares(model: str) -> Iterator[Sequence[Any]]:
    rows = table(model)
    yield ["variant", *(f"M = {m:g}" for m in _middles(rows))]
    for variant in VARIANTS:
        found = (_of(rows, variant, "affected", m) for m in _middles(rows))
        yield [variant, *("" if one["median"] is None else f"{one['median']:.2f}" for one in found)]


def _layers(model: str) -> Iterator[Sequence[Any]]:
    rows = table(model)
    yield ["layer", *(f"{row['layer']:g}" for row in rows if row["variant"] == "skip_one")]
    for variant in ("skip_one", "swap"):
        found = [row["above"] for row in rows if row["variant"] == variant]
        yield [variant, *(f"{one:.2f}" for one in found)]
    yield ["block influence", *(f"{one:.2f}" for one in facts(model)["block_influence"])]


def _order() -> Iterator[Sequence[Any]]:
    """What a wrong order costs as a share of what leaving the layers out costs."""
    yield ["model", "variant / skip", *(f"M = {m:g}" for m in _middles(table(MODELS[0])))]
    for model in MODELS:
        rows = table(model)
        for variant in ("random", "reverse", "parallel"):
            ratios = []
            for m in _middles(rows):
                cost, base = (_of(rows, one, "affected", m)["above"] for one in (variant, "skip"))
                ratios.append(f"{cost / base:z.2f}")
            yield [model, variant, *ratios]


def _tasks() -> Iterator[Sequence[Any]]:
    yield ["model", "variant", *TASKS]
    for model in MODELS:
        rows = table(model)
        for row in (rows[0], *(_of(rows, one, "affected", 3) for one in VARIANTS)):
            yield [model, row["variant"], *(f"{row[task]:.2f}" for task in TASKS)]


def _caches() -> Iterator[Sequence[Any]]:
    yield [
        *("M", "times", "loss exact", "loss averaged", "KL", "same likeliest token"),
        *("same greedy tokens of 64", "sums exact", "sums averaged"),
    ]
    for row in table("caches-small-llama"):
        yield [
            f"{row['affected']:g}",
            f"{row['repeats']:g}",
            f"{row['loss_exact']:.2f}",
            f"{row['loss_averaged']:.2f}",
            f"{row['kl']:.3f} ± {row['kl_error']:.3f}",
            f"{row['agreement']:.2f}",
            f"{row['same_tokens']:.1f}",
            f"{row['sums_exact']:.3f}",
            f"{row['sums_averaged']:.3f}",
        ]


def _metric(task: str) -> str:
    """CoLA is judged by Matthews' correlation, as in GLUE, the others by accuracy."""
    return "matthews" if task == "cola" else "accuracy"


def _full(frozen: int) -> dict[str, Row]:
    """The full model's row of every task."""
    rows = [row for row in table("glue") if row["frozen"] == frozen]
    return {row["task"]: row for row in rows if row["variant"] == "full"}


def _above(row: Row) -> bool:
    metric = _metric(row["task"])
    chance = 0.0 if metric == "matthews" else row["majority"]
    above = row[metric] - chance
    return bool(above > 0 and above >= ABOVE_CHANCE * row[f"{metric}_error"])


def _glue(frozen: int) -> Iterator[Sequence[Any]]:
    full = {task: row for task, row in _full(frozen).items() if _above(row)}
    rows = [row for row in table("glue") if row["frozen"] == frozen]
    yield ["variant", "M", *(f"{task} ({_metric(task)})" for task in full)]
    yield ["full", "", *(_said([row]) for row in full.values())]
    for variant in VARIANTS:
        for m in (1, 3, 5):
            cells = [
                [r for r in rows if (r["task"], r["variant"], r["affected"]) == (task, variant, m)]
                for task in full
            ]
            if all(cells):
                yield [variant, m, *map(_said, cells)]


def _said(rows: Sequence[Row]) -> str:
    mean, error = mean_of_plans(rows, _metric(rows[0]["task"]))
    count = f" ({len(rows)} plans)" if len(rows) > 1 else ""
    return f"{mean:.3f} ± {error:.3f}{count}"


def _at_chance() -> Iterator[Sequence[Any]]:
    yield ["task", "trained", "full model", "chance", "standard error"]
    for frozen in (0, 1):
        for task, row in _full(frozen).items():
            if not _above(row):
                metric = _metric(task)
                chance = 0.0 if metric == "matthews" else row["majority"]
                numbers = (row[metric], chance, row[f"{metric}_error"])
                trained = "classifier alone" if frozen else "all weights"
                yield [f"{task} ({metric})", trained, *(f"{one:.3f}" for one in numbers)]


def _recover(rows: Sequence[Row], steps: Sequence[int]) -> Iterator[Sequence[Any]]:
    """Gaps to the full plan trained as long, and the first step from which on they stay small."""
    said = [f"{1 - left:.0%} closed" for left in LEFT]
    said += [f"within {margin:g}" for margin in MARGINS]
    said.append("above untouched")
    yield ["model", "M", "variant", "seeds", "rate", *(f"step {step}" for step in steps), *said]
    for row in sorted(rows, key=_place):
        yield [
            *(row["model"], f"{row['affected']:g}", row["variant"]),
            *(f"{row['seeds']:g}", f"{row['rate']:g}"),
            *(f"{row[f'gap_{step}']:z.2f}" for step in steps[:-1]),
            _with_interval(row, f"gap_{steps[-1]}"),
            *(_when(row, f"left_{left}", steps[-1]) for left in LEFT),
            *(_when(row, f"steps_{margin}", steps[-1]) for margin in MARGINS),
            _with_interval(row, "above_untouched"),
        ]


def _place(row: Row) -> tuple[str, float, int]:
    return row["model"], row["affected"], VARIANTS.index(row["variant"])


def _with_interval(row: Row, what: str) -> str:
    mean, low, high = (row[f"{what}{end}"] for end in ("", "_low", "_high"))
    return f"{mean:z.2f} [{low:z.2f}, {high:z.2f}]"


def _controls(rows: Sequence[Row], steps: Sequence[int]) -> Iterator[Sequence[Any]]:
    """The loss of the full plan while it trains, from the row of each model with most seeds."""
    yield ["model", "rate", *(f"step {step}" for step in steps)]
    for model in sorted({row["model"] for row in rows}):
        own = max((r for r in rows if r["model"] == model), key=lambda r: float(r["seeds"]))
        losses = (f"{own[f'full_{step}']:.3f}" for step in steps)
        yield [model, f"{own['full_rate']:g}", *losses]


def _when(row: Row, what: str, last: int) -> str:
    """The step with its interval, such as `20 [10, > 60]`."""
    mean, low, high = (
        f"> {last}" if math.isinf(step) else f"{step:g}"
        for step in (row[f"{what}{end}"] for end in ("", "_low", "_high"))
    )
    return mean if mean == low == high else f"{mean} [{low}, {high}]"


def _recover_long() -> Iterator[Sequence[Any]]:
    """Of M = 7, above the full model trained as long, in nats."""
    steps = (0, 100, 200, 400)
    yield ["model", "variant", *(f"step {step}" for step in steps), "closed"]
    rows = table("recover-long")
    for model in MODELS:
        own = {row["variant"]: row for row in rows if row["model"] == model}
        for variant in VARIANTS:
            gaps = [own[variant][f"step_{one}"] - own["full"][f"step_{one}"] for one in steps]
            yield [model, variant, *(f"{gap:.2f}" for gap in gaps), f"{1 - gaps[-1] / gaps[0]:.0%}"]


def _iterations() -> Iterator[Sequence[Any]]:
    """How many iterations of the parallel middle do best, and how far above full."""
    yield ["model", "measure", *(f"M = {m:g}" for m in _middles(table(MODELS[0])))]
    for model in MODELS:
        rows = [row for row in table(model) if row["variant"] == "iterations"]
        for key, sign in (("above", 1), ("median", -1)):
            by_middle = ([r for r in rows if r["affected"] == m] for m in _middles(rows))
            best = [min(some, key=lambda r, k=key, s=sign: s * r[k]) for some in by_middle]
            said = "loss above full" if key == "above" else "share of the tasks"
            yield [model, said, *(_best(r["repeats"], key, r[key]) for r in best)]


def _best(repeats: float, key: str, value: float) -> str:
    """The number of iterations with what it gives; a dash where none leaves a task standing."""
    stands = key == "above" or value >= 0.005
    return f"{repeats:g} ({value:z.2f})" if stands else "-"


def _time() -> Iterator[Sequence[Any]]:
    """Layer calls and wall time a token of the variants at M = 7."""
    yield ["model", "plan", "layer calls", "ms a token", "loss above full"]
    for model in MODELS:
        rows = table(model)
        for row in (rows[0], *(_of(rows, one, "affected", 7) for one in VARIANTS)):
            numbers = (f"{row['layer_calls']:g}", f"{row['ms_per_token']:.3f}")
            yield [model, row["variant"], *numbers, f"{row['above']:z.2f}"]


if __name__ == "__main__":
    main()
