"""The largest values of a site, and where they stand.

The order is total: by |x|, largest first, then document, position and channel, smallest first; so
the first k are the same bits however the data is split and joined.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.statistics import passes
from laminogram.probe.statistics.base import State, Statistic
from laminogram.probe.statistics.rows import Rows

_COLUMNS = ("size", "value", "document", "position", "channel")
_EMPTY = -1.0  # the size of a place that is not taken; no |x| is negative


class TopK(Statistic):
    """The k values of largest |x| with their document, position and channel.

    `result()` gives `value` (k,) float64 with its sign, `document`, `position` and `channel` (k,)
    int64, and `nonfinite`, int64 without axes. Where fewer than k values were seen, the rest is NaN
    at document -1.
    """

    name = "topk"
    addressed = True

    def __init__(self, k: int = 64) -> None:
        super().__init__()
        if k < 1:
            raise ConfigError(f"k must be at least 1, not {k}")
        self.k = int(k)

    def options(self) -> dict[str, Any]:
        """The number of values kept."""
        return {"k": self.k}

    def reduce(self, rows: Rows) -> State:
        """The first k of the batch, found among the k rows with the largest values.

        A value outside these rows is beaten by the largest value of each of them.
        """
        documents, positions = rows.documents, rows.positions
        if documents is None or positions is None:
            raise ConfigError("the statistic 'topk' needs the document of every row")
        if rows.compiled:
            numbers, places = passes.first(
                rows.values, rows.row_absmax, documents, positions, self.k
            )
            found = dict(zip(_COLUMNS, (*numbers.unbind(), *places.unbind()), strict=True))
            found = found if len(found["size"]) == self.k else self._fill(found)
            return found | {"nonfinite": torch.tensor(0)}
        order = torch.argsort(positions, stable=True)
        order = order[torch.argsort(documents[order], stable=True)]
        largest = rows.row_absmax[order]
        first = torch.argsort(largest, descending=True, stable=True)[: self.k]
        floor = largest[first][-1]  # a number for an index: a tensor would be waited for
        # Back to (document, position): then the place in `values` is the order among equals.
        chosen = order[first.sort().values]
        values = rows.clean[chosen]
        sizes = values.abs()
        if rows.valid is not None:
            sizes = sizes.masked_fill(~rows.valid[chosen], _EMPTY)
        place = _candidates(sizes, floor if len(first) == self.k else None)
        best = torch.argsort(sizes.flatten()[place], descending=True, stable=True)[: self.k]
        place = place[best]
        row = chosen[place // values.shape[1]]
        found = {
            "size": sizes.flatten()[place].to(torch.float64),
            "value": values.flatten()[place].to(torch.float64),
            "document": documents[row],
            "position": positions[row],
            "channel": place % values.shape[1],
        }
        return self._fill(found) | {"nonfinite": rows.channel_counts[1].sum()}

    def _fill(self, found: State) -> State:
        """Bring to k places; what is not taken looks the same everywhere."""
        missing = self.k - found["size"].shape[0]
        empty = {"size": _EMPTY, "value": 0.0}
        if missing:
            found = {
                key: torch.nn.functional.pad(value, (0, missing), value=empty.get(key, -1))
                for key, value in found.items()
            }
        vacant = found["size"] < 0
        return {key: value.masked_fill(vacant, empty.get(key, -1)) for key, value in found.items()}

    def combine(self, a: State, b: State) -> State:
        """The first k of both."""
        both = {key: torch.cat([a[key], b[key]]) for key in a if key != "nonfinite"}
        order = _order(both)[: self.k]
        kept = {key: value[order] for key, value in both.items()}
        return kept | {"nonfinite": a["nonfinite"] + b["nonfinite"]}

    def describe(self, state: State) -> dict[str, np.ndarray]:
        """The arrays of the class's table."""
        table = {key: value.numpy() for key, value in state.items() if key != "size"}
        table["value"] = np.where(state["size"].numpy() < 0, np.nan, table["value"])
        return table


def _order(found: State) -> Tensor:
    """The order of what was found, first to last."""
    keys = ("value", "channel", "position", "document")  # the least important first
    if found["size"].is_cpu:
        columns = [found[key].numpy() for key in keys]
        return torch.from_numpy(np.lexsort((*columns, -found["size"].numpy())))
    order = torch.arange(len(found["size"]), device=found["size"].device)
    for key in keys:  # each later sort keeps the order among equals
        order = order[torch.argsort(found[key][order], stable=True)]
    return order[torch.argsort(found["size"][order], descending=True, stable=True)]


def _candidates(sizes: Tensor, floor: Tensor | None) -> Tensor:
    """Flat places that can be among the first k, in order; k values reach the size `floor`."""
    if floor is None or sizes.device.type != "cpu":
        return torch.arange(sizes.numel(), device=sizes.device)
    return (sizes.flatten() >= floor).nonzero().flatten()
