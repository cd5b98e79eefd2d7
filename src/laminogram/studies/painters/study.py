"""The study: points, texts and tasks, one sweep over all plans, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from laminogram.errors import ConfigError
from laminogram.evaluate.evaluate import Manner, evaluate
from laminogram.evaluate.ledger import Ledger
from laminogram.evaluate.loss import check_predicts
from laminogram.evaluate.result import TaskResult
from laminogram.evaluate.tasks import Task
from laminogram.plans import Plan
from laminogram.probe.manifest import manifest
from laminogram.probe.program import check_together
from laminogram.probe.subject import Subject
from laminogram.stack.conditions import KeysAndValues
from laminogram.studies.painters.forecast import forecast
from laminogram.studies.painters.influence import influence
from laminogram.studies.painters.measures import (
    TASK_SHARE,
    Measure,
    by_key,
    of_predictions,
    of_readings,
    of_tasks,
)
from laminogram.studies.painters.pace import pace
from laminogram.studies.painters.passages import PASSAGES
from laminogram.studies.painters.pieces import Pieces, Texts, cut
from laminogram.studies.painters.points import REPEATS, SEEDS, Point, distinct, points
from laminogram.studies.painters.ranking import ranking
from laminogram.studies.painters.result import Painters
from laminogram.studies.painters.scorers import Predicting, Scorer, scorer
from laminogram.studies.painters.sweep import keys, open_reads, sweep
from laminogram.studies.similarity import similarity

SAMPLES = 100
"""Pieces of text whose states are compared, at most: as many as in the paper."""
COSTS = (TASK_SHARE, "loss", "distance")
"""By which measure the cost of a layer is told: the first that there is."""


def paint(
    view: Subject,
    *,
    variants: Iterable[str] | None = None,
    texts: Texts | None = None,
    tasks: Sequence[Task] = (),
    seeds: int = SEEDS,
    repeats: int = REPEATS,
    kv: KeysAndValues | None = None,
    bos: bool | None = None,
    work: str | Path | None = None,
    progress: bool = True,
    say: Callable[[str], object] | None = None,
) -> Painters:
    """Every variant of the paper on one model, with intervals over documents.

    Args:
        view: the model; its edits act in every plan, its own plan does not count.
        variants: some of `points.VARIANTS`; by default all.
        texts: what is predicted, each a document; by default the short `PASSAGES`.
        tasks: of `evaluate.tasks.open_task`, scored under every plan too.
        seeds: of the shuffled variant; repeats: of the looped middle, 1 to so many.
        kv: what parallel layers remember while tasks generate (`exact`, `averaged`).
        bos: whether texts and prompts begin with BOS; None is the tokenizer's habit.
        work: a folder for results as they come; what it holds is not computed again.
        say: is told the forecast before the sweep starts.

    Raises ConfigError for a variant that does not exist, PlanError where the model cannot run a
    plan, TokenError for texts that it cannot read, FamilyError for tasks that it cannot do,
    StoreError for a folder that is not ours.
    """
    view = replace(view, plan=view.stack.full_plan())
    view = view if kv is None else view.using(kv=kv)
    if len(view.plan) < 2:
        raise ConfigError(f"{view.name} has {len(view.plan)} layer; variants need two at least")
    if tasks:
        check_predicts(view)
    chosen = points(len(view.plan), variants, seeds=seeds, repeats=repeats)
    plans = distinct(chosen)
    for plan in plans:
        view.using(plan=plan)  # finds a plan that cannot run, now
    pieces = cut(view, PASSAGES if texts is None else texts, bos)
    check_together(view.edits, len(pieces.rows), None)
    reader, folder = scorer(view, pieces), None if work is None else Path(work)
    ledger = Ledger(folder)
    waiting = open_reads(ledger, reader, keys(view, reader, plans))
    if say is not None:
        say(str(forecast(view, chosen, reader, tasks, sum(map(len, waiting.values())))))
    sums = sweep(view, reader, plans, pieces.units, ledger, progress=progress)
    timed = pace(view, chosen, ledger, progress=progress)
    manner = Manner(bos=bos)
    results = (
        evaluate(view, tasks, plans, out=folder, manner=manner, progress=progress) if tasks else []
    )
    texts_told = [*_text_measures(view, chosen, plans, pieces, reader, sums), timed]
    return _result(view, chosen, pieces, reader, texts_told, results, progress)


def _result(
    view: Subject,
    chosen: Sequence[Point],
    pieces: Pieces,
    reader: Scorer,
    measures: Sequence[Measure],
    results: Sequence[TaskResult],
    progress: bool,
) -> Painters:
    tasks = of_tasks(chosen, results)
    samples = _first(pieces, SAMPLES)
    turned = influence(view, samples, progress=progress)
    known = by_key((*tasks.measures, *measures))
    plans = distinct(chosen)
    dear = next(known[name] for name in COSTS if name in known)
    return Painters(
        model=view.name,
        labels=tuple(map(str, range(len(view.plan)))),
        points=tuple(chosen),
        measures=(*tasks.measures, *measures),
        text=f"{reader.measure}; {pieces.tokens:,} tokens in {pieces.units} {pieces.unit}",
        similarity=similarity(view, [list(row) for row in samples.rows], progress=progress),
        influence=turned,
        ranking=ranking(chosen, dear, turned),
        at_chance=tasks.at_chance,
        not_normalised=tasks.not_normalised,
        manifest=manifest(
            view.facts(),
            list(pieces.rows),
            study="painters",
            measure=reader.measure,
            plans=[str(plan) for plan in plans],
            seeds=list(range(max(len(point.plans) for point in chosen))),
            tasks=[
                {"task": one.task, "version": one.version, "requests_hash": one.requests_hash}
                for one in results
                if one.plan == str(plans[0])
            ],
        ),
    )


def _text_measures(
    view: Subject,
    chosen: Sequence[Point],
    plans: Sequence[Plan],
    pieces: Pieces,
    reader: Scorer,
    sums: np.ndarray,
) -> list[Measure]:
    if not isinstance(reader, Predicting):
        return of_readings(chosen, plans, sums)
    return of_predictions(
        chosen,
        plans,
        sums,
        vocabulary=view.config.vocab_size,
        text_bytes=pieces.text_bytes if view.config.causal else None,
    )


def _first(pieces: Pieces, most: int) -> Pieces:
    """The first pieces, so many at most."""
    return replace(pieces, rows=pieces.rows[:most], owners=pieces.owners[:most])
