"""The runs of a study of operations: every batch unchanged, then under every condition.

Axes: N conditions, D documents, S steps, B documents of a batch, T tokens, C channels, H heads, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import SiteError
from laminogram.probe.edits import Edit
from laminogram.probe.program import Program, steps_of
from laminogram.probe.subject import Subject
from laminogram.probe.weight_edits import WeightEdit
from laminogram.stack import sites
from laminogram.stack.batch import Batch
from laminogram.studies.operation_results import Condition, Operations
from laminogram.studies.operation_scores import Scores
from laminogram.studies.operation_targets import Target, selected
from laminogram.studies.operation_trunk import Trunk
from laminogram.studies.reading import wide

STREAM = "resid_post"
"""Where an outlier of the residual stream is looked for downstream."""

Made = list[Edit | WeightEdit]
Where = dict[str, Any]
"""The selection of a target, as edits take it."""


class Run:
    """One pass over the documents: each batch unchanged, then under every condition."""

    def __init__(
        self,
        view: Subject,
        conditions: Sequence[Condition],
        make: Callable[[Condition, Where], Made],
        count: int,
        *,
        sinks: bool,
    ) -> None:
        self.view, self.make, self.conditions = view, make, list(conditions)
        self.targets = list({one.target.name: one.target for one in conditions}.values())
        self.steps = steps_of(STREAM, view.config, view.plan)
        self.patterns = _pattern_steps(view) if sinks else []
        self.reads = self._reads()
        self.first = self._first_steps()
        shape = (len(conditions), count)
        self.tokens = np.zeros(count)
        self.nats, self.kl, self.sink = (np.zeros(shape) for _ in range(3))
        self.reference_nats, self.reference_sink = np.zeros(count), np.zeros(count)
        whole = (len(conditions), len(self.steps), count)
        self.magnitude, self.anywhere = np.full(whole, np.nan), np.full(whole, np.nan)
        self.before = {
            target.name: np.full((2, len(self.steps), count), np.nan) for target in self.targets
        }
        self._own = {str(edit) for edit in view.edits}  # at work in every condition
        self._whole: dict[tuple[str, ...], Subject] = {}

    def _reads(self) -> dict[int, set[str]]:
        """The same for every run, so that all are of one specialisation."""
        reads: dict[int, set[str]] = {}
        names = {STREAM, *(target.site for target in self.targets)}
        for name in names:
            for step in steps_of(name, self.view.config, self.view.plan):
                reads.setdefault(step, set()).add(name)
        for step in self.patterns:
            reads.setdefault(step, set()).add("pattern")
        return reads

    def _first_steps(self) -> dict[str, int]:
        """By target the first step that its edits change; not of those that act before any."""
        found = {
            target.name: min(steps_of(target.site, self.view.config, self.view.plan, target.layers))
            for target in self.targets
        }
        return {name: step for name, step in found.items() if step != sites.STACK_STEP}

    @torch.no_grad()
    def batch(self, chosen: list[int], batch: Batch) -> Batch:
        """One batch through the unchanged model and every condition."""
        seen = _Look(self, batch, chosen, self.targets)
        trunk = Trunk(self.view, batch, seen.program(self.view), self.first.values())
        scores = Scores(self.view, trunk.out, batch)
        self.tokens[chosen] = np.maximum(np.array(batch.lengths) - 1, 0)
        self.reference_nats[chosen] = scores.nats
        self.reference_sink[chosen] = seen.sink()
        for target in self.targets:
            self.before[target.name][:, :, chosen] = seen.sizes(target)
        for number, condition in enumerate(self.conditions):
            looked, found = seen, (scores.nats, np.zeros(len(chosen)))
            view = self._view(condition, chosen)
            if view is not None:
                looked = seen.branch(condition.target)
                found = scores.of(view, self._through(number, view, looked, trunk, batch))
            self._fill(number, chosen, looked, found)
        return batch

    def _through(
        self, number: int, view: Subject, looked: _Look, trunk: Trunk, batch: Batch
    ) -> Tensor:
        """What enters the head under a condition, whose entries are counted."""
        program = looked.program(view)
        first = self.first.get(self.conditions[number].target.name)
        if view.stack is self.view.stack and first is not None:
            out = trunk.branch(view, program, first)
        else:  # other weights, or an edit before the first step
            out = view.run(batch, observer=program, logits="none")
        rows = [row for row in program.effects() if row["edit"] not in self._own]
        self.conditions[number] = _counted(self.conditions[number], rows)
        return out

    def _fill(
        self, number: int, chosen: list[int], looked: _Look, found: tuple[np.ndarray, np.ndarray]
    ) -> None:
        self.nats[number, chosen], self.kl[number, chosen] = found
        self.sink[number, chosen] = looked.sink()
        sizes = looked.sizes(self.conditions[number].target)
        self.magnitude[number][:, chosen], self.anywhere[number][:, chosen] = sizes

    def _view(self, condition: Condition, chosen: list[int]) -> Subject | None:
        """The view of a condition for these documents; None where it selects nothing of them."""
        target = condition.target
        steps = steps_of(target.site, self.view.config, self.view.plan, target.layers)
        where: Where = {"steps": steps, "channels": target.channels}
        if target.positions is not None:
            where["positions"] = [target.positions[number] for number in chosen]
            if not any(where["positions"]):
                return None
        made = self.make(condition, where)
        if any(isinstance(one, Edit) for one in made):
            return self.view.using(edits=made)
        if target.entries and made:
            return self.view.using(edits=made)
        key = tuple(map(str, made))  # edits of all weights, whatever the target: made once
        if key not in self._whole:
            self._whole[key] = self.view.using(edits=made)
        return self._whole[key]

    def results(self, replicates: int, manifest: dict[str, Any]) -> Operations:
        """Everything, as one value."""
        before = np.stack([self.before[one.target.name] for one in self.conditions], 1)
        return Operations(
            model=self.view.name,
            conditions=tuple(self.conditions),
            steps=tuple(self.steps),
            layers=tuple(self.view.plan.steps[step].layer for step in self.steps),
            tokens=self.tokens,
            nats=self.nats,
            kl=self.kl,
            sink=self.sink,
            magnitude=self.magnitude,
            anywhere=self.anywhere,
            reference_nats=self.reference_nats,
            reference_sink=self.reference_sink,
            reference_magnitude=before[0],
            reference_anywhere=before[1],
            replicates=replicates,
            manifest=manifest,
        )


def _counted(condition: Condition, rows: Sequence[Mapping[str, object]]) -> Condition:
    """The condition with what its edits selected and changed in one more batch."""
    selected, changed = (
        sum(cast(int, row[name]) for row in rows) for name in ("selected", "changed")
    )
    return replace(
        condition,
        selected=condition.selected + selected,
        changed=condition.changed + changed,
    )


class _Look:
    """What one run of a batch shows: sizes of targets after each step, attention to position 0."""

    def __init__(
        self, run: Run, batch: Batch, chosen: Sequence[int], targets: Sequence[Target]
    ) -> None:
        self.run, self.batch = run, batch
        self._where = {target.name: selected(target, chosen, batch) for target in targets}
        self._traced = {target.name: _traced(run.view, target) for target in targets}
        self._targets = targets
        self._sizes = {
            target.name: np.full((2, len(run.steps), len(chosen)), np.nan) for target in targets
        }
        self._sink: dict[int, np.ndarray] = {}

    def branch(self, target: Target) -> _Look:
        """What this one saw, for one target, to be written over by a run that branches off."""
        other = copy(self)
        other._targets = [target]
        other._sizes = {target.name: self._sizes[target.name].copy()}
        other._sink = dict(self._sink)
        return other

    def program(self, view: Subject) -> Program:
        """What carries the view's edits and fills this in."""
        return view.program(self.run.reads, self._take)

    def sizes(self, target: Target) -> np.ndarray:
        """The largest |x| of the target's channels and of all, (2, S, B); NaN where it has none."""
        return self._sizes[target.name]

    def sink(self) -> np.ndarray:
        """The attention (B,) to position 0, mean over layers; NaN where no layer shows it."""
        if not self._sink:
            return np.full(len(self.batch.lengths), np.nan)
        return np.mean(list(self._sink.values()), axis=0)

    def _take(self, site: str, step: int, x: Tensor) -> None:
        if site == "pattern":
            self._sink[step] = _to_first(x, self.batch)
            return
        for target in self._targets:
            if self._traced[target.name] == site and step in self.run.steps:
                where = self._where[target.name].to(x.device)
                size = x.abs()
                of_target = size[..., list(target.channels)]
                at = self.run.steps.index(step)
                for n, values in enumerate((of_target, size)):
                    self._sizes[target.name][n, at] = _largest(values, where)


def _largest(size: Tensor, where: Tensor) -> np.ndarray:
    """The largest of |x| (B, T, ...) at the selected tokens, (B,); NaN where there is none."""
    found = size.flatten(2).amax(-1).masked_fill(~where, -1.0).amax(1).double().cpu().numpy()
    return np.where(found < 0, np.nan, found)


def _to_first(pattern: Tensor, batch: Batch) -> np.ndarray:
    """The weight (B,) of position 0 in a pattern (B, H, T, S), mean over heads and later tokens."""
    later = batch.mask.to(pattern.device).clone()
    later[:, 0] = False
    weight = wide(pattern[..., 0]).mean(1).masked_fill(~later, 0.0)
    found: np.ndarray = (weight.double().sum(1) / later.sum(1)).cpu().numpy()
    return found


def _traced(view: Subject, target: Target) -> str:
    """The site at which a target's channels are looked for after each step."""
    of_stream = sites.find(target.site, view.config, target.layers[0]).axes[-1] == "C"
    return STREAM if of_stream else target.site


def _pattern_steps(view: Subject) -> list[int]:
    """The steps whose pattern is a distribution over earlier tokens."""
    try:
        steps = steps_of("pattern", view.config, view.plan)
    except SiteError:
        return []
    layers = view.config.layers
    return [n for n in steps if layers[view.plan.steps[n].layer].attn.kind not in sites.MATRIX]
