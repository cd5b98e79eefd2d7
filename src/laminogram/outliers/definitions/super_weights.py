"""Super weights: single entries of a down projection that a model cannot lose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from laminogram.errors import ConfigError
from laminogram.outliers.base import Definition, Entry, Evidence, Place
from laminogram.probe.measuring import measure
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.bootstrap import ALL
from laminogram.probe.statistics.scales import Scales
from laminogram.probe.weight_edits import scale_entry

WeightPlace = tuple[int, int, int]
"""Layer, row (output channel) and column (input channel) of a down projection."""


class SuperWeights(Definition):
    """A layer whose down projection has a spike above 50 on both sides.

    The channels of the largest input and output are the entry's column and row. The value is the
    smaller of the two spikes. `find_super_weights` removes what was found and looks again.
    """

    name = "super_weights"
    source = "Yu et al. 2024, mengxiayu/LLMSuperWeight analyze.py"
    trap = (
        "Published for one prompt of eight words; over many texts the maxima grow, and the two "
        "spikes need not be of one token. A spike on both sides does not prove that this entry "
        "carries it: `detail` has the weight itself. Behind a gate (RWKV-4) the output is after "
        "the gate."
    )
    sites = ("ffn_act", "ffn_out")

    def __init__(self, threshold: float = 50.0) -> None:
        self.threshold = threshold

    def options(self) -> dict[str, Any]:
        """The size of a spike."""
        return {"threshold": self.threshold}

    def statistics(self) -> tuple[Statistic, ...]:
        """Maxima of channels."""
        return (Scales(),)

    def judge(self, evidence: Evidence) -> Iterator[Entry]:
        """Every step with a feed-forward network."""
        for place in evidence.places(("ffn_out",)):
            if place.step not in evidence.steps("ffn_act"):
                continue
            inner = evidence.place("ffn_act", place.step)
            if self.can_read(inner) and self.can_read(place):
                yield self._entry(evidence.view, inner, place)

    def _entry(self, view: Any, inner: Place, outer: Place) -> Entry:
        spike_in, spike_out = (one["scales"]["absmax"].max(1) for one in (inner, outer))
        spike = np.minimum(spike_in, spike_out)
        row, column = (int(one["scales"]["absmax"][ALL].argmax()) for one in (outer, inner))
        detail = {
            "input": float(spike_in[ALL]),
            "output": float(spike_out[ALL]),
            "row": row,
            "column": column,
        }
        weight = None if view is None else _down(view.stack, outer.layer)
        if weight is not None:
            detail["weight"] = float(weight[row, column])
        verdict = bool(spike[ALL] > self.threshold)
        return self.entry(
            "spike", spike, outer, threshold=self.threshold, verdict=verdict, detail=detail
        )


def find_super_weights(
    view: Any, text: Any, threshold: float = 50.0, most: int = 16
) -> list[WeightPlace]:
    """Super weights one after the other: find, remove, look again, until no layer spikes.

    Each round takes the first layer with a spike on both sides, as later spikes may be carried on
    from it. It ends also where the same entry comes again (its spike has another cause), and after
    `most` rounds. The view's weights stay as they are.
    """
    found: list[WeightPlace] = []
    definition = SuperWeights(threshold)
    wanted = {site: (Scales(replicates=0),) for site in definition.sites}
    for _ in range(most):
        measured = measure(without(view, found), text, wanted, progress=False)
        spikes = [
            entry for entry in definition.judge(Evidence({"full": measured})) if entry.verdict
        ]
        if not spikes:
            break
        first = spikes[0]
        place = (first.layer, int(first.detail["row"]), int(first.detail["column"]))
        if place in found:
            break
        found.append(place)
    return found


def without(view: Any, places: Sequence[WeightPlace]) -> Any:
    """The view with these entries of down projections at zero.

    Only the matrices that change are copied. ConfigError for a layer without a dense down
    projection, EditError for an entry that does not exist.
    """
    for layer, _, _ in places:
        if _down(view.stack, layer) is None:
            raise ConfigError(f"layer {layer} has no dense down projection to take an entry from")
    return view.using(
        edits=[
            scale_entry(f"layers.{layer}.ffn.down.weight", row, column, factor=0)
            for layer, row, column in places
        ]
    )


def _down(stack: Any, layer: int) -> torch.Tensor | None:
    """The down projection (C, F) of a layer; None where it has no dense one."""
    weight = getattr(getattr(stack.layer(layer).ffn, "down", None), "weight", None)
    return weight.detach() if isinstance(weight, torch.Tensor) else None
