"""What a study will cost, said before it starts: layer calls, plans, and about how long."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from laminogram.evaluate.encode import Encoder, Row
from laminogram.evaluate.evaluate import BATCH_TOKENS
from laminogram.evaluate.packing import pack
from laminogram.evaluate.reading import sharing
from laminogram.evaluate.tasks import Task
from laminogram.plans.tree import PlanTree
from laminogram.probe.subject import Subject
from laminogram.stack.batch import Batch
from laminogram.studies.painters.pace import TOKENS_READ
from laminogram.studies.painters.points import Point, distinct
from laminogram.studies.painters.scorers import Scorer


@dataclass(frozen=True)
class Forecast:
    """points: conditions; tree: their different plans, merged; text_batches: batches of text, each
    of which every plan reads; task_tokens: tokens that tasks have besides, of which each plan reads
    all; written: texts to generate, which no forecast can time; known: readings of a batch by a
    plan that are there already; seconds: about how long the rest takes, measured on a first batch.
    """

    points: int
    tree: PlanTree
    text_batches: int
    task_tokens: int
    written: int
    known: int
    seconds: float

    @property
    def layer_calls(self) -> float:
        """Layer calls of the text, all batches together, were nothing known."""
        return self.tree.calls * self.text_batches

    def __str__(self) -> str:
        lines = [
            f"{self.points:,} conditions, {len(self.tree.plans):,} different plans; a batch takes "
            f"{self.tree.calls:,g} layer calls instead of {self.tree.calls_apart:,g}, since plans "
            "share how they begin",
            f"text: {self.text_batches:,} batch{'' if self.text_batches == 1 else 'es'}, "
            f"{self.layer_calls:,g} layer calls",
        ]
        if self.task_tokens:
            lines.append(f"tasks: {self.task_tokens:,} tokens under every plan")
        if self.written:
            lines.append(f"tasks: {self.written:,} texts to generate under every plan, not timed")
        if self.known:
            lines.append(f"there already: {self.known:,} readings of a batch by a plan")
        lines.append(f"about {_said(self.seconds)}, measured on a first batch")
        return "\n".join(lines)


def forecast(
    view: Subject,
    points: Sequence[Point],
    scorer: Scorer,
    tasks: Sequence[Task],
    open_readings: int,
) -> Forecast:
    """Time the unchanged model on the first batch and reckon the rest from it.

    open_readings: of text batches by plans, how many are still to be made.
    """
    tree = PlanTree(distinct(points))
    layer, head = _measured(view, scorer)
    read = sum(one.size for one in scorer.batches)
    share = open_readings / (len(tree.plans) * len(scorer.batches))
    task_tokens = sum(_tokens(view, task) for task in tasks)
    seconds = share * read * (tree.calls * layer + len(tree.plans) * head)
    seconds += TOKENS_READ * layer * sum(one.plans[0].cost().layer_calls for one in points)
    return Forecast(
        len(points),
        tree,
        len(scorer.batches),
        task_tokens,
        sum(len(task.requests) for task in tasks if task.requests.kind == "generate_until"),
        len(tree.plans) * len(scorer.batches) - open_readings,
        seconds + task_tokens * tree.calls * layer,
    )


@torch.no_grad()
def _measured(view: Subject, scorer: Scorer) -> tuple[float, float]:
    """Seconds a token of one layer, and of what a scorer does after the last one."""
    full, batch = replace(view, plan=view.stack.full_plan()), scorer.batches[0]
    tokens = Batch.of(batch.inputs, vocab_size=view.config.vocab_size)
    spent = []
    for _ in range(2):  # the first forward warms up
        begin = time.perf_counter()
        full.run(tokens, logits="none").sum().item()
        middle = time.perf_counter()
        list(scorer.score(view, PlanTree([full.plan]), batch, []))
        spent = [middle - begin, time.perf_counter() - middle]
    layers, whole = spent
    # A scorer reads the batch twice: once as the unchanged model, once under the plan.
    return layers / len(full.plan) / batch.size, max(0.0, whole - 2 * layers) / batch.size


def _tokens(view: Subject, task: Task) -> int:
    """Tokens that one plan reads of a task; 0 where it writes."""
    if task.requests.kind == "generate_until":
        return 0
    encoder = Encoder(view)
    rows: dict[int, list[Row]] = {}
    for one in task.requests:
        own = rows.setdefault(one.document, [])
        if one.kind == "loglikelihood":
            own.append(encoder.pair(one.context, one.continuation))
        else:
            own += encoder.windows(one.context)
    packs = pack(rows.values(), BATCH_TOKENS, share=sharing(view))
    return sum(one.tokens for one in packs)


def _said(seconds: float) -> str:
    """A length of time in two digits: 45 s, 12 min, 3.5 h."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{max(seconds, 0.1):.2g} s"
