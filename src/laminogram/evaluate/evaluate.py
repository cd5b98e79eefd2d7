"""Score tasks under many plans by this engine: what is shared is computed once, nothing twice.

    tasks = [open_task("arc_easy", data=folder), open_task("addition")]
    results = evaluate(view, tasks, plans=["0-11", "0-3, 5-11"], out=Path("scores"))

Texts become rows of tokens (`evaluate.encode`), rows become packs (`evaluate.packing`), and a pack
goes through the tree of all plans (`evaluate.reading`). Answers are kept as they come
(`evaluate.ledger`), so a run that was killed goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tqdm import tqdm

from laminogram.evaluate.encode import Encoder, Row
from laminogram.evaluate.ledger import Ledger
from laminogram.evaluate.loss import check_predicts
from laminogram.evaluate.packing import Pack, pack
from laminogram.evaluate.reading import read, sharing
from laminogram.evaluate.requests import Requests
from laminogram.evaluate.result import TaskResult, measured
from laminogram.evaluate.tasks import Task
from laminogram.evaluate.timing import Seconds
from laminogram.evaluate.writing import write
from laminogram.plans import Plan
from laminogram.plans.tree import PlanTree
from laminogram.probe.manifest import plain
from laminogram.probe.program import Effects, check_effects, check_together, total_effects
from laminogram.probe.subject import Subject

BATCH_TOKENS = 2048
"""Tokens in a batch, pads counted, where no other number is asked for."""


@dataclass(frozen=True)
class Manner:
    """How texts are read: see `Encoder`; and how many tokens make a batch."""

    bos: bool | None = None
    max_length: int | None = None
    batch_tokens: int = BATCH_TOKENS


def evaluate(
    view: Subject,
    tasks: Sequence[Task],
    plans: Iterable[Plan | str] | None = None,
    *,
    out: Path | None = None,
    manner: Manner | None = None,
    progress: bool = True,
) -> list[TaskResult]:
    """Every task under every plan, in that order.

    Args:
        view: the model, with its edits, which act under every plan.
        plans: by default the view's own. Equal ones are run once.
        out: a folder that keeps results and answers; what it holds already is not computed again.

    Raises FamilyError for a model that predicts no next token, PlanError for a plan that it cannot
    run, TokenError for texts that it cannot read, StoreError for a folder that is not ours.
    """
    check_predicts(view)
    manner = manner or Manner()
    chosen = [view.plan] if plans is None else list(dict.fromkeys(map(Plan.of, plans)))
    views = [view.using(plan=plan) for plan in chosen]  # finds a plan that cannot run, now
    ledger = Ledger(out)
    seconds = Seconds()
    results = []
    for task in tasks:
        keys = [_key(one, task.requests, manner) for one in views]
        open_ = [i for i, key in enumerate(keys) if ledger.result(key) is None]
        if open_:
            asked = _Asked(view, task.requests, manner, [chosen[i] for i in open_])
            answers = asked.answered(ledger, [keys[i] for i in open_], progress)
            for i, given in zip(open_, answers, strict=True):
                found = TaskResult(
                    **measured(task, given),
                    plan=str(chosen[i]),
                    conditions=_conditions(views[i], manner),
                    seconds_per_token=seconds.of(views[i]),
                )
                ledger.add_result(keys[i], found.to_json())
        known = (ledger.result(key) for key in keys)
        results += [TaskResult.from_json(one) for one in known if one is not None]
    ledger.close()
    return results


def answer(
    view: Subject,
    requests: Requests,
    plans: Iterable[Plan | str] | None = None,
    *,
    manner: Manner | None = None,
    progress: bool = False,
) -> list[list[Any]]:
    """The bare answers to requests under each plan, one for each request in order.

    Of `loglikelihood` (nats, whether greedy), of `loglikelihood_rolling` nats, of `generate_until`
    the text. Errors as in `evaluate`.
    """
    check_predicts(view)
    chosen = [view.plan] if plans is None else list(map(Plan.of, plans))
    keys = [str(number) for number in range(len(chosen))]
    asked = _Asked(view, requests, manner or Manner(), chosen)
    return asked.answered(Ledger(), keys, progress)


class _Asked:
    """Requests as rows and packs for one model, and the plans that are to answer them."""

    def __init__(
        self, view: Subject, requests: Requests, manner: Manner, plans: Sequence[Plan]
    ) -> None:
        self.view, self.requests, self.manner, self.plans = view, requests, manner, plans
        check_together(view.edits, len(requests), None)
        self._encoder = Encoder(view, max_length=manner.max_length, bos=manner.bos)
        self._effects: Effects = []

    def answered(self, ledger: Ledger, keys: Sequence[str], progress: bool) -> list[list[Any]]:
        """The answers under each plan; what the ledger has under its key is taken from there."""
        written = self.requests.kind == "generate_until"
        found = (self._written if written else self._scored)(ledger, keys, progress)
        check_effects(self._effects)
        return found

    def _scored(self, ledger: Ledger, keys: Sequence[str], progress: bool) -> list[list[Any]]:
        rows = [self._rows(number) for number in range(len(self.requests))]
        by_document: dict[int, list[Row]] = {}
        for request, own in zip(self.requests, rows, strict=True):
            by_document.setdefault(request.document, []).extend(own)
        packs = pack(by_document.values(), self.manner.batch_tokens, share=sharing(self.view))
        with self._bar(len(packs) * len(keys), progress) as bar:
            for one in packs:
                self._read(one, ledger, keys, bar)
        return [self._joined(packs, rows, ledger, key) for key in keys]

    def _rows(self, number: int) -> list[Row]:
        request = self.requests.items[number]
        if request.kind == "loglikelihood":
            return [self._encoder.pair(request.context, request.continuation)]
        return self._encoder.windows(request.context)

    def _read(self, one: Pack, ledger: Ledger, keys: Sequence[str], bar: Any) -> None:
        """One pack under every plan that has not read it yet."""
        open_ = [i for i, key in enumerate(keys) if ledger.answers(key, one.hash) is None]
        bar.update(len(keys) - len(open_))
        tree, effects = PlanTree(self.plans[i] for i in open_), Effects()
        found = (
            (keys[open_[number]], [list(answer) for answer in reading.answers()])
            for number, reading in (read(self.view, tree, one, effects) if open_ else ())
        )
        for key, answers in list(found) if self.view.edits else found:  # counts come at the end
            ledger.add_answers(key, one.hash, answers, total_effects(effects))
            bar.update()
        # Each key has the counts of all plans that were read together.
        self._effects += next(filter(None, (ledger.effects(key, one.hash) for key in keys)), [])

    def _joined(
        self, packs: Sequence[Pack], rows: Sequence[Sequence[Row]], ledger: Ledger, key: str
    ) -> list[Any]:
        """From answers to rows to answers to requests."""
        known: dict[Row, Any] = {}
        for one in packs:
            known.update(zip(one.rows, ledger.answers(key, one.hash) or (), strict=True))
        if self.requests.kind == "loglikelihood":
            return [(known[row][0], bool(known[row][1])) for (row,) in rows]
        return [float(sum(known[row][0] for row in own)) for own in rows]

    def _written(self, ledger: Ledger, keys: Sequence[str], progress: bool) -> list[list[Any]]:
        total = len(self.requests) * len(keys)
        with self._bar(total, progress) as bar:
            return [
                write(
                    self.view.using(plan=plan),
                    self.requests,
                    self._encoder,
                    self.manner.batch_tokens,
                    ledger,
                    key,
                    bar,
                    self._effects,
                )
                for plan, key in zip(self.plans, keys, strict=True)
            ]

    def _bar(self, total: int, progress: bool) -> Any:
        return tqdm(total=total, desc=self.requests.task, disable=None if progress else True)


def _conditions(view: Subject, manner: Manner) -> dict[str, Any]:
    encoder = Encoder(view, max_length=manner.max_length, bos=manner.bos)
    facts = view.facts()
    facts.pop("device")
    return plain(facts | {"bos": manner.bos, "max_length": encoder.max_length})


def _key(view: Subject, requests: Requests, manner: Manner) -> str:
    """What a result belongs to: weights, plan, edits, precision, encoding, task and requests."""
    facts = _conditions(view, manner) | {"task": requests.task, "version": requests.version}
    facts["requests"] = requests.hash
    facts.pop("model")  # the weights' hash says more than their name
    return blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
