"""Numbers of every token: the one statistic whose size grows with the data."""

from __future__ import annotations

import numpy as np
import torch

from laminogram.errors import ConfigError
from laminogram.probe.statistics.base import Rows, State, Statistic


class Tokens(Statistic):
    """Norm, largest |x| and kurtosis over the channels of every token.

    Its size grows with the data, by 56 bytes a token; every other statistic has a constant size.
    `result()` gives arrays (n,), ordered by document and position: `document`, `position`, `norm`
    (Euclidean), `absmax`, `mean`, `kurtosis` (m4 / m2**2 about the token's mean, 3 for a Gaussian;
    NaN where the channels do not differ) and `nonfinite`, the number of channels left out. A token
    without any finite channel is NaN throughout.
    """

    name = "tokens"
    addressed = True

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[State] = []

    def reduce(self, rows: Rows) -> State:
        """One number a row; rows that do not count are marked, and dropped when read."""
        if rows.documents is None or rows.positions is None:
            raise ConfigError("the statistic 'tokens' needs the document of every row")
        number, channels = rows.values.shape
        device = rows.values.device
        table = torch.empty(4, number, dtype=torch.float64, device=device)
        ones = torch.ones(channels, dtype=torch.float64, device=device)
        for part, distance, _ in rows.chunks():
            distance.copy_(rows.clean[part])
            valid = None if rows.valid is None else rows.valid[part]
            count = rows.row_counts[0][part]
            mean = (distance @ ones) / count
            distance.sub_(mean[:, None])
            if valid is not None:
                distance.masked_fill_(~valid, 0.0)
            squares = distance.square_() @ ones
            fourth = (distance.square_() @ ones) / count
            second = squares / count
            spread = second > (1e-13 * mean) ** 2
            table[0, part] = (squares + count * mean**2).sqrt()
            table[1, part] = mean
            table[2, part] = torch.where(spread, fourth / second**2, float("nan"))
        table[3] = rows.row_absmax.to(torch.float64)
        table.masked_fill_(table[3] < 0, float("nan"))
        keep = rows.keep
        return {
            "document": rows.documents,
            "position": rows.positions,
            "norm": table[0],
            "mean": table[1],
            "kurtosis": table[2],
            "absmax": table[3],
            "nonfinite": rows.row_counts[1],
            "keep": torch.ones_like(rows.documents, dtype=torch.bool) if keep is None else keep,
        }

    def combine(self, a: State, b: State) -> State:
        """Both, one after the other."""
        return {key: torch.cat([a[key], b[key]]) for key in a}

    def _take(self, state: State) -> None:
        # Joined when read: joining at every batch would copy what was seen again and again.
        self._parts.append(state)

    def _check_width(self, a: State, b: State) -> None:
        """Any numbers of tokens fit."""

    @property
    def state(self) -> State:
        """(n,) tensors of the tokens seen, in order of document and position."""
        if self._parts:
            parts = [self._state] * bool(self._state) + self._parts
            joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            self._state, self._parts = _compact(joined), []
        return self._state

    def describe(self, state: State) -> dict[str, np.ndarray]:
        """The arrays of the class's table."""
        tidy = _compact(state)  # a merged state is joined, but not yet in order
        names = ("document", "position", "norm", "absmax", "mean", "kurtosis", "nonfinite")
        return {name: tidy[name].numpy() for name in names}


def _compact(state: State) -> State:
    order = state["keep"].nonzero().flatten()
    order = order[torch.argsort(state["position"][order], stable=True)]
    order = order[torch.argsort(state["document"][order], stable=True)]
    return {key: value[order] for key, value in state.items()}
