"""Operations on outliers: what they do to the loss, to the output, to sinks, and where it regrows.

    target = massive_scalars(view, texts)
    targets = [target, *controls(view, texts, target)]
    found = operate(view, texts, targets, calibration=other_texts)
    found.tables()["operations"]

Every condition reads the same documents as the unchanged model does, with the same sites tapped, so
that an operation which does nothing gives exactly zero. Differences are paired by document, and
intervals resample documents.

Axes: N conditions, D documents, S steps, B documents of a batch, T tokens, C channels, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from laminogram.errors import ConfigError, SiteError
from laminogram.evaluate.loss import check_predicts
from laminogram.probe import edits
from laminogram.probe.edits import Edit
from laminogram.probe.gram import Gram
from laminogram.probe.program import steps_of
from laminogram.probe.recording import Request, documents, record
from laminogram.probe.sources import Source, of_means
from laminogram.probe.subject import Subject, Text
from laminogram.studies.operation_results import Condition, Operations
from laminogram.studies.operation_run import Made, Run, Where
from laminogram.studies.operation_targets import Target, batches
from laminogram.studies.reading import about, wide

Doses = Mapping[str, Sequence[float]]
ONCE: Doses = {"scale": (0.5, 2.0)}
"""Each operation with dose 1, and `scale`, where 1 is nothing, in both directions."""
RESPONSE: Doses = {
    "zero": (0.0, 0.25, 0.5, 0.75, 1.0),
    "mean": (0.0, 0.5, 1.0),
    "clip": (0.0, 0.5, 1.0),
    "scale": (0.0, 0.5, 1.0, 1.5, 2.0),
}
"""Doses that show a response; of `scale` the dose is the factor, which is 1 for nothing at all."""


@dataclass(frozen=True)
class Calibration:
    """What operations must know of a site from other texts.

    means: of the first position and of all others. For each step, each a mean over documents:
    `bound` the given quantile of |x|, `median` that of |x|, `rms` the median token's.
    """

    means: Source
    bound: Mapping[int, float]
    median: Mapping[int, float]
    rms: Mapping[int, float]


def _of_steps(make: Callable[[Where, int], Edit], where: Where) -> Made:
    """An edit for each step, where its values differ from step to step."""
    return [make(where | {"steps": step}, step) for step in where["steps"]]


def _zero(target: Target, known: Calibration, dose: float, where: Where) -> Made:
    return [edits.zero(target.site, dose=dose, **where)]


def _scale(target: Target, known: Calibration, dose: float, where: Where) -> Made:
    return [edits.scale(target.site, dose, **where)]


def _mean(target: Target, known: Calibration, dose: float, where: Where) -> Made:
    return [edits.mean(target.site, known.means, dose=dose, **where)]


def _clip(target: Target, known: Calibration, dose: float, where: Where) -> Made:
    def make(here: Where, step: int) -> Edit:
        return edits.winsorise(target.site, bound=known.bound[step], dose=dose, **here)

    return _of_steps(make, where)


def _winsorise(target: Target, known: Calibration, dose: float, where: Where) -> Made:
    return [edits.winsorise(target.site, quantile=0.99, dose=dose, **where)]


def _sign(target: Target, known: Calibration, dose: float, where: Where) -> Made:
    def make(here: Where, step: int) -> Edit:
        return edits.sign(target.site, known.median[step], dose=dose, **here)

    return _of_steps(make, where)


def _normalise(target: Target, known: Calibration, dose: float, where: Where) -> Made:
    def make(here: Where, step: int) -> Edit:
        return edits.normalise(target.site, rms=known.rms[step], dose=dose, **here)

    return _of_steps(make, where)


def _rotate(target: Target, known: Calibration, dose: float, where: Where) -> Made:
    return [edits.weights.rotate(seed=0)] if dose else []


def _of_weights(condition: Condition) -> Made:
    factor = condition.dose if condition.operation == "scale" else 1 - condition.dose
    return [edits.weights.scale_entry(*at, factor=factor) for at in condition.target.entries]


OPERATIONS: dict[str, Callable[[Target, Calibration, float, Where], Made]] = {
    "zero": _zero,
    "mean": _mean,
    "clip": _clip,
    "winsorise": _winsorise,
    "sign": _sign,
    "scale": _scale,
    "normalise": _normalise,
    "rotate": _rotate,
}
"""`clip` holds |x| to a quantile of other texts, `winsorise` to the row's own 0.99; `sign` writes
the median size of other texts, `normalise` scales the row to the median token's rms there and
writes the target's channels of it; `rotate` turns the residual of the whole model, whatever the
target, and its dose is 0 or 1."""
OF_WEIGHTS = ("zero", "scale", "rotate")
"""The operations that weights have."""


@torch.no_grad()
def calibrate(
    view: Subject,
    texts: Text,
    site: str,
    layers: Sequence[int] | None = None,
    *,
    quantile: float = 0.999,
    batch_size: int = 8,
) -> Calibration:
    """What operations must know of a site in some layers (None: in all), from texts that are not
    those of the experiment."""
    layers = None if layers is None else tuple(layers)
    steps = steps_of(site, view.config, view.plan, layers)
    numbers: dict[int, list[tuple[float, float, float]]] = {step: [] for step in steps}

    def grams() -> Iterator[Gram]:
        for _, batch in batches(view, texts, batch_size):
            gram = record(view, batch, Request((site,), layers), torch.device("cpu"))
            for step in steps:
                numbers[step] += _sizes(gram.tensor(site, step), gram.mask, quantile)
            yield gram

    means = of_means(site, grams(), first=1)
    columns = {step: np.mean(found, axis=0) for step, found in numbers.items()}
    bound, median, rms = (
        {step: float(found[n]) for step, found in columns.items()} for n in range(3)
    )
    return Calibration(means, bound, median, rms)


def _sizes(x: Tensor, mask: np.ndarray, quantile: float) -> list[tuple[float, float, float]]:
    """Quantile and median of |x|, and the median token's rms, of each document."""
    found = []
    for row, real in zip(x, torch.from_numpy(mask), strict=True):
        state = wide(row[real])
        ordered = state.abs().flatten().sort().values
        place = min(len(ordered) - 1, int(quantile * len(ordered)))
        rms = state.flatten(1).square().mean(1).sqrt().median()
        found.append((float(ordered[place]), float(ordered[len(ordered) // 2]), float(rms)))
    return found


def operate(
    view: Subject,
    texts: Text,
    targets: Sequence[Target],
    operations: Sequence[str] = tuple(OPERATIONS),
    doses: Doses = ONCE,
    *,
    calibration: Text | None = None,
    quantile: float = 0.999,
    sinks: bool = True,
    batch_size: int = 8,
    replicates: int = 200,
    progress: bool = True,
) -> Operations:
    """Every operation, in every dose (that of `ONCE` where `doses` names none), on every target
    that has it.

    calibration: texts for means and bounds, by default the same ones; quantile: that of their |x|
    to which `clip` holds. sinks: read the attention
    patterns, which runs every attention layer's explicit path, of the unchanged model too. Weights
    have the operations of `OF_WEIGHTS`. ConfigError for an unknown operation or two targets of one
    name; FamilyError for a model that predicts no next token; EditError where one cannot be made.
    """
    _check(view, targets, operations)
    conditions = [
        Condition(target, operation, dose)
        for target in targets
        for operation in operations
        if not target.entries or operation in OF_WEIGHTS
        if target.role == "outliers" or operation != "rotate"
        for dose in doses.get(operation, ONCE.get(operation, (1.0,)))
    ]
    layers: dict[str, set[int]] = {}
    for target in targets:
        layers.setdefault(target.site, set()).update(target.layers)
    others = texts if calibration is None else calibration
    known = {
        site: calibrate(view, others, site, sorted(some), quantile=quantile)
        for site, some in layers.items()
    }

    def make(condition: Condition, where: Where) -> Made:
        target, name = condition.target, condition.operation
        if target.entries and name != "rotate":
            return _of_weights(condition)
        return OPERATIONS[name](target, known[target.site], condition.dose, where)

    run = Run(view, conditions, make, len(documents(view, texts)), sinks=sinks)
    bar = tqdm(batches(view, texts, batch_size), disable=None if progress else True, leave=False)
    read = [run.batch(chosen, batch) for chosen, batch in bar]
    asked = {
        "targets": [repr(target) for target in targets],
        "operations": list(operations),
        "doses": {name: list(found) for name, found in doses.items()},
        "quantile": quantile,
        "replicates": replicates,
    }
    return run.results(replicates, about(view, "operations", read, **asked))


def _check(view: Subject, targets: Sequence[Target], operations: Sequence[str]) -> None:
    check_predicts(view)
    unknown = [name for name in operations if name not in OPERATIONS]
    if unknown:
        raise ConfigError(
            f"there is no operation {unknown[0]!r}; there are {', '.join(OPERATIONS)}"
        )
    names = [target.name for target in targets]
    if not targets or len(set(names)) < len(names):
        raise ConfigError(f"targets need one at least, and names of their own: {', '.join(names)}")
    for site in {*(target.site for target in targets), *(edit.site for edit in view.edits)}:
        if site == "logits":
            raise SiteError("logits are made from the stream in parts here: name another site")
