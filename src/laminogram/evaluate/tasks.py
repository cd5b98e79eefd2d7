"""A task: its requests, and what answers to them are worth by the harness' own metrics.

task = open_task("arc_easy", data=Path("benchmarks"), limit=200)
task.requests                  # made once, text alone
task.values(answers)           # {"acc,none": [1.0, 0.0, ...], ...}, one number a document
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from laminogram.errors import ConfigError
from laminogram.evaluate.harness import SOURCES, harness, local_task, quiet
from laminogram.evaluate.own_tasks import OWN, own_task
from laminogram.evaluate.requests import Request, Requests

Values = dict[str, list[Any]]
"""By metric and filter (`acc,none`) what each document contributes, in their order."""

_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_GENERATED = 256
"""New tokens where a task states none, as in the harness."""
_MAIN = ("acc", "exact_match", "mcc", "f1", "acc_norm")
"""Which metric stands for a task: the first of these that it has, else its first."""


class Task:
    """A task of the harness, its documents opened and its requests built.

    `inner` is the harness' own object; `requests[i]` belongs to `instances[i]`.
    """

    def __init__(self, inner: Any, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ConfigError(f"limit is {limit}; it counts documents and must be at least 1")
        self.inner = inner
        self.name: str = inner.config.task
        with quiet():
            inner.build_all_requests(limit=limit, rank=0, world_size=1)
        self.instances: list[Any] = inner.instances
        self.requests = Requests(self.name, self.version, tuple(map(_request, self.instances)))
        self._remember()

    @property
    def version(self) -> str:
        """The harness' version of the task, and how many examples its prompts have."""
        return f"{self.inner.VERSION}, {self.inner.config.num_fewshot or 0} shots"

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """By the name of a metric."""
        found: Mapping[str, bool] = self.inner.higher_is_better()
        return found

    @cached_property
    def main_metric(self) -> str:
        """The metric, without its filter, that stands for the task in a summary."""
        have = list(self.inner.aggregation())
        return next((one for one in _MAIN if one in have), have[0])

    @cached_property
    def chance(self) -> float:
        """The main metric of answers at random, or of always the commonest class.

        Choices that are the same in all documents are classes. 0 where nothing is to choose from.
        """
        config = self.inner.config
        if self.main_metric not in ("acc", "acc_norm") or config.output_type != "multiple_choice":
            return 0.0
        documents = {one.doc_id: one.doc for one in self.instances}.values()
        with quiet():
            choices = [self.inner.doc_to_choice(doc) for doc in documents]
            if len({tuple(one) for one in choices}) == 1:
                gold = Counter(str(self.inner.doc_to_target(doc)) for doc in documents)
                return max(gold.values()) / len(choices)
        return sum(1 / len(one) for one in choices) / len(choices)

    def values(self, answers: Sequence[Any]) -> Values:
        """What the answers are worth: of `loglikelihood` (nats, greedy), of `_rolling` nats, of
        `generate_until` texts, one for each request in order."""
        found: Values = defaultdict(list)
        by_document: dict[int, list[Any]] = defaultdict(list)
        for instance, answer in zip(self.instances, answers, strict=True):
            instance.resps, instance.filtered_resps = [answer], {}
            by_document[instance.doc_id].append(instance)
        with quiet():
            self.inner.apply_filters()
            for name in self.instances[0].filtered_resps:
                for instances in by_document.values():
                    ordered = sorted(instances, key=lambda one: one.idx)
                    responses = [one.filtered_resps[name] for one in ordered]
                    scored = self.inner.process_results(ordered[0].doc, responses)
                    for metric, value in scored.items():
                        found[f"{metric},{name}"].append(value)
        return dict(found)

    def aggregation(self, metric: str) -> Callable[[Sequence[Any]], float]:
        """How the harness makes one number of a metric's values."""
        known: Mapping[str, Callable[[Sequence[Any]], float]] = self.inner.aggregation()
        return known.get(metric.partition(",")[0], harness("lm_eval.api.metrics").mean)

    def _remember(self) -> None:
        """Work out each document's target and choices once, not once for every plan."""
        for name in ("doc_to_target", "doc_to_choice"):
            setattr(self.inner, name, _once_a_document(getattr(self.inner, name)))


def open_task(
    name: str,
    *,
    data: Path | None = None,
    text_file: Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
) -> Task:
    """A task by name: one of `OWN`, or one of the harness with its documents under `data`.

    text_file: what questions out of a text are made from. limit: only so many documents, the first
    ones. shots: examples in each prompt, by default the task's own number. ConfigError names what
    exists.
    """
    if name in OWN:
        return Task(own_task(name, text_file), limit)
    if data is None:
        raise ConfigError(
            f"{name} needs its documents: give --data, a folder with one for each task. Without, "
            f"there are {', '.join(OWN)}; with it {', '.join(SOURCES)} and the harness' others"
        )
    return Task(local_task(name, data, shots), limit)


def _request(instance: Any) -> Request:
    """A request of the harness as ours. ConfigError for one that is drawn at random."""
    own = {"document": instance.doc_id, "index": instance.idx}
    if instance.request_type != "generate_until":
        return Request(instance.request_type, *instance.args, **own)
    context, asked = instance.args
    if asked.get("do_sample") or float(asked.get("temperature") or 0) > 0 or instance.repeats > 1:
        raise ConfigError(f"{instance.task_name} draws its answers at random: only greedy is run")
    until = asked.get("until") or []
    limits = (asked[name] for name in _LIMITS if asked.get(name) is not None)
    return Request(
        "generate_until",
        context,
        until=tuple([until] if isinstance(until, str) else until),
        max_new_tokens=int(next(limits, _GENERATED)),
        **own,
    )


def _once_a_document(method: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[int, tuple[Any, Any]] = {}  # the document is kept, so that its id stays its own

    def remembered(doc: Any, *others: Any) -> Any:
        if others:
            return method(doc, *others)
        if id(doc) not in known:
            known[id(doc)] = doc, method(doc)
        return known[id(doc)][1]

    return remembered
