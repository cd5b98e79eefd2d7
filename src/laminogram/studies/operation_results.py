"""What operations on outliers did: numbers by document, with differences, intervals and tables.

Axes: N conditions, D documents, S steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from laminogram.probe.statistics.bootstrap import ALL, interval, variant_weights
from laminogram.studies.operation_targets import Target
from laminogram.studies.reading import Tables


@dataclass(frozen=True)
class Condition:
    """One operation on one target; the entries that it selected and changed at sites."""

    target: Target
    operation: str
    dose: float
    selected: int = 0
    changed: int = 0


@dataclass(frozen=True, eq=False)
class Operations:
    """What every condition did, document by document.

    tokens (D,): predicted tokens. nats (N, D): their summed loss; kl (N, D): the sum over them of
    KL(unchanged || changed) over the whole vocabulary; sink (N, D): the attention that position 0
    gets from later tokens, mean over layers, heads and tokens, NaN without such patterns. magnitude
    (N, S, D): the largest |x| of the target's channels at its tokens in the stream after each step
    (at the target's own site where that is none of the stream's channels), anywhere (N, S, D): of
    all channels there; NaN for a document that the target does not touch. `reference_...` are those
    of the unchanged model, (D,) or, as far as they hang on the target, (N, S, D).
    """

    model: str
    conditions: tuple[Condition, ...]
    steps: tuple[int, ...]
    layers: tuple[int, ...]
    tokens: np.ndarray
    nats: np.ndarray
    kl: np.ndarray
    sink: np.ndarray
    magnitude: np.ndarray
    anywhere: np.ndarray
    reference_nats: np.ndarray
    reference_sink: np.ndarray
    reference_magnitude: np.ndarray
    reference_anywhere: np.ndarray
    replicates: int
    manifest: dict[str, Any] = field(default_factory=dict)

    def loss_change(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nats a token more than unchanged, paired by document: value, low, high, (N,) each."""
        return self._resampled(self.nats - self.reference_nats, self.tokens)

    def divergence(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """KL in nats a token: value, low, high, (N,) each."""
        return self._resampled(self.kl, self.tokens)

    def sink_change(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sink mass more than unchanged, mean over documents: value, low, high, (N,) each."""
        return self._resampled(self.sink - self.reference_sink, np.ones(len(self.tokens)))

    def regrowth(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The target's size after each step over its size unchanged, both as means over the
        documents that it touches: value, low, high, (N, S) each; 0 where it is gone, 1 where it is
        back."""
        shape = self.magnitude.shape
        flat = [x.reshape(-1, shape[-1]) for x in (self.magnitude, self.reference_magnitude)]
        value, low, high = self._resampled(*flat)
        return value.reshape(shape[:2]), low.reshape(shape[:2]), high.reshape(shape[:2])

    def _resampled(
        self, sums: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ratios of sums (N, D) to counts (D,) or (N, D) over the documents that have both, with
        their intervals, (N,) each; NaN where none has."""
        weights = variant_weights(torch.arange(len(self.tokens)), self.replicates).numpy()
        known = np.isfinite(sums) & np.isfinite(counts)
        above, below = (np.where(known, x, 0.0) for x in (sums, counts))
        with np.errstate(divide="ignore", invalid="ignore"):
            variants = (weights @ above.T) / (weights @ below.T)
        low, high = interval(variants)
        return variants[ALL], low, high

    def tables(self) -> Tables:
        """`operations`: a line for each condition; `operations-controls`: each target beside its
        null of random controls; `operations-regrowth`: a line for each condition and step."""
        loss, kl, sink = self.loss_change(), self.divergence(), self.sink_change()
        effects: dict[str, Any] = {
            "target": [one.target.name for one in self.conditions],
            "role": [one.target.role for one in self.conditions],
            "operation": [one.operation for one in self.conditions],
            "dose": np.array([one.dose for one in self.conditions]),
            "selected": np.array([one.selected for one in self.conditions]),
            "changed": np.array([one.changed for one in self.conditions]),
        }
        for name, found in (("loss_change", loss), ("kl", kl), ("sink_change", sink)):
            effects |= {name: found[0], f"{name}_low": found[1], f"{name}_high": found[2]}
        return {
            "operations": effects,
            "operations-controls": self._controls(loss[0]),
            "operations-regrowth": self._regrowth_table(),
        }

    def _controls(self, loss: np.ndarray) -> dict[str, Any]:
        """Each condition on outliers, and where it stands among the same on random controls.

        touched: the random controls on which the operation changed any prediction. p is that of a
        permutation test among them, (1 + those at least as far from 0) / (1 + touched); where the
        outliers or all controls are left as they were it means nothing: NaN, and `note` says so.
        """
        touched = ((self.nats != self.reference_nats) | (self.kl > 0)).any(1)
        lines = []
        for number, one in enumerate(self.conditions):
            if one.target.role != "outliers":
                continue
            same = self._like(one)
            null = loss[same["random"]]
            active = touched[same["random"]]
            beyond = int((np.abs(null[active]) >= abs(loss[number])).sum())
            note = _untouched(bool(touched[number]), active)
            norm, tokens = (loss[same[role][:1]] for role in ("norm", "tokens"))
            lines.append(
                {
                    "target": one.target.name,
                    "operation": one.operation,
                    "dose": one.dose,
                    "loss_change": loss[number],
                    "controls": len(null),
                    "touched": int(active.sum()),
                    "random_mean": null.mean() if len(null) else np.nan,
                    "random_low": null.min() if len(null) else np.nan,
                    "random_high": null.max() if len(null) else np.nan,
                    "p": np.nan if note or not len(null) else (1 + beyond) / (1 + active.sum()),
                    "note": note,
                    "like_in_norm": norm[0] if len(norm) else np.nan,
                    "other_tokens": tokens[0] if len(tokens) else np.nan,
                }
            )
        return {key: [line[key] for line in lines] for key in (lines[0] if lines else ())}

    def _like(self, one: Condition) -> dict[str, list[int]]:
        """The numbers of the same operation on controls of this target, by role."""
        found: dict[str, list[int]] = {"random": [], "norm": [], "tokens": []}
        for number, other in enumerate(self.conditions):
            wanted = (one.target.name, one.operation, one.dose)
            if (other.target.of, other.operation, other.dose) == wanted:
                found[other.target.role].append(number)
        return found

    def _regrowth_table(self) -> dict[str, Any]:
        value, low, high = self.regrowth()
        steps, each = len(self.steps), range(len(self.conditions))
        kept = ("magnitude", "reference_magnitude", "anywhere", "reference_anywhere")
        return {
            "target": [self.conditions[n].target.name for n in each for _ in range(steps)],
            "operation": [self.conditions[n].operation for n in each for _ in range(steps)],
            "dose": np.repeat([self.conditions[n].dose for n in each], steps),
            "step": np.tile(self.steps, len(self.conditions)),
            "layer": np.tile(self.layers, len(self.conditions)),
            **{name: _mean_known(getattr(self, name)).ravel() for name in kept},
            "ratio": value.ravel(),
            "ratio_low": low.ravel(),
            "ratio_high": high.ravel(),
        }


def _untouched(outliers: bool, controls: np.ndarray) -> str:
    """What an operation left as it was; empty where it was nothing."""
    if not outliers:
        return "not touched"
    return "controls not touched" if len(controls) and not controls.any() else ""


def _mean_known(x: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    known = np.isfinite(x)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.where(known, x, 0.0).sum(-1) / known.sum(-1)
    return mean
