"""The report on outliers: every part, for every model, precision and input.

found = outlier_report([view], texts, Settings(precisions=("fp32", "int8")), work="report/work")
found.tables()["outliers-verdicts"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from laminogram.errors import ConfigError
from laminogram.probe.manifest import manifest, tokens_hash
from laminogram.probe.subject import Subject
from laminogram.studies.corpus import BUNDLED
from laminogram.studies.outlier_report import parts as made
from laminogram.studies.outlier_report.cost import Cost, cost_of
from laminogram.studies.outlier_report.settings import Rows, Settings, Views, inputs_of
from laminogram.studies.outlier_report.work import Part, Work
from laminogram.studies.reading import Tables

Say = Callable[[str], None]
Job = tuple[str, tuple[str, str, str], dict[str, Any], Callable[[], Tables]]


@dataclass(frozen=True, eq=False)
class OutlierReport:
    """Finished parts with what was asked.

    parameters: of each model; notes: what was left out, and why.
    """

    models: tuple[str, ...]
    parameters: tuple[int, ...]
    settings: Settings
    parts: tuple[Part, ...]
    costs: tuple[Cost, ...]
    notes: tuple[str, ...] = ()
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """All models in one line."""
        return ", ".join(self.models)

    def of(self, kind: str) -> tuple[Part, ...]:
        """The parts of a kind: `verdicts`, `channels`, `precision`, `operations`."""
        return tuple(part for part in self.parts if part.kind == kind)

    def tables(self) -> Tables:
        """Every table of all parts, with the columns model, precision and input before its own."""
        tables: Tables = {}
        for part in self.parts:
            for name, own in part.tables.items():
                count = len(next(iter(own.values()), []))
                table = tables.setdefault(name, {})
                where = {"model": part.model, "precision": part.precision, "input": part.input}
                for column, value in where.items():
                    table.setdefault(column, []).extend([value] * count)
                for column, values in own.items():
                    table.setdefault(column, []).extend(values)
        return {name: table for name, table in tables.items() if table["model"]}


def outlier_report(
    views: Sequence[Subject],
    texts: Sequence[str] | Rows = BUNDLED,
    settings: Settings | None = None,
    *,
    work: str | Path | None = None,
    say: Say = lambda line: None,
    progress: bool = True,
) -> OutlierReport:
    """Make every part of the report, or take it from `work` where an earlier run finished it.

    texts: documents, as texts or as token ids. say: is told the cost before anything is made, and
    what is left out. A model that predicts no next token has no precisions or operations. Errors:
    ConfigError, TokenError, and those of the parts.
    """
    if not views:
        raise ConfigError("a report needs one model at least")
    asked = settings or Settings()
    kept = Work(None if work is None else Path(work))
    costs, notes, jobs = [], [], []
    for view in views:
        inputs = inputs_of(view, texts, asked.bos)
        costs.append(cost_of(view, inputs, asked))
        say(str(costs[-1]))
        notes += _left_out(view, asked)
        jobs += list(_jobs(view, inputs, asked))
    for note in notes:
        say(note)
    parts = []
    with tqdm(jobs, unit="part", disable=None if progress else True, leave=False) as bar:
        for kind, where, key, make in bar:
            bar.set_description(f"{where[0]} {where[1]} {where[2]}: {kind}")
            parts.append(kept.part(kind, where, key, make))
    again = sum(part.kept for part in parts)
    if again:
        say(f"{again} of {len(parts)} parts were finished before and are taken as they are")
    facts = [view.facts() for view in views]
    return OutlierReport(
        tuple(view.name for view in views),
        tuple(view.card().parameter_total for view in views),
        asked,
        tuple(parts),
        tuple(costs),
        tuple(notes),
        manifest(facts[0], None, study="outliers", asked=asked.facts(), others=facts[1:])
        | {"tokens_hashes": _hashes(jobs)},
    )


def _hashes(jobs: Sequence[Job]) -> dict[str, str]:
    return {f"{where[0]} {where[2]}": key["tokens"] for _, where, key, _ in jobs}


def _left_out(view: Subject, settings: Settings) -> list[str]:
    if view.config.causal and view.config.head.present:
        return []
    asked = len(settings.precisions) > 1 or settings.edits
    return [
        f"{view.name} predicts no next token: it has no loss, so precisions are not compared by "
        "what it predicts, and operations are left out."
    ] * bool(asked)


def _jobs(view: Subject, inputs: dict[str, Rows], settings: Settings) -> Iterator[Job]:
    """Every part of one model: what it is of, what it follows from, and what makes it."""
    views = Views(view, settings.precisions)
    facts = view.facts()
    predicts = view.config.causal and view.config.head.present
    for of, rows in inputs.items():
        key = {"facts": facts, "tokens": tokens_hash(rows), "reference": views.names[0]}
        for name in views.names:
            here = (view.name, name, of)
            read = key | {"precision": name, "replicates": settings.replicates}
            judged = read | {"definitions": list(settings.chosen)}
            run = _deferred(made.verdict_tables, views, name, rows, settings)
            yield "verdicts", here, judged, run
            run = _deferred(made.channel_tables, views, name, rows, settings)
            yield "channels", here, read, run
            if predicts and name != views.names[0]:
                sampled = {"seeds": settings.seeds, "new_tokens": settings.new_tokens}
                yield "precision", here, read | sampled, _precision(views, name, rows, settings)
        if predicts and settings.edits:
            first = views.names[0]
            asked = {"precision": first, "edits": list(settings.edits), "draws": settings.draws}
            asked["operated"] = settings.operated
            run = _deferred(made.operation_tables, views, first, rows, settings)
            yield "operations", (view.name, first, of), key | asked, run


def _deferred(
    tables: Callable[[Subject, Rows, Settings], Tables],
    views: Views,
    name: str,
    rows: Rows,
    settings: Settings,
) -> Callable[[], Tables]:
    """A part to be made later; the precision is made with it."""
    return lambda: tables(views[name], rows, settings)


def _precision(views: Views, name: str, rows: Rows, settings: Settings) -> Callable[[], Tables]:
    return lambda: made.precision_tables(views, name, rows, settings)
