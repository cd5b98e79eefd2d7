"""Statistics that keep a line for each token or document, and so grow with the data."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from laminogram.errors import ConfigError
from laminogram.probe.statistics.base import State, Statistic


class Listed(Statistic):
    """A statistic whose state is a table: tensors (n, ...), one line an item.

    Every table has the column `document`, and `keep`, false where a line does not count; `order`
    names the columns it is sorted by, the last one first. `unique` refuses two lines of one
    document: what is not additive needs its documents whole.
    """

    addressed = True
    order: ClassVar[tuple[str, ...]] = ("document",)
    unique: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[State] = []

    def combine(self, a: State, b: State) -> State:
        """Both, one after the other."""
        return {key: torch.cat([a[key], b[key]]) for key in a}

    def take(self, state: State) -> None:
        # Joined when read: joining at every batch would copy what was seen again and again.
        self._parts.append(state)

    def _check_width(self, a: State, b: State) -> None:
        for key, value in a.items():
            if value.shape[1:] != b[key].shape[1:]:
                raise ConfigError(f"two tables of {self.name!r} differ in the width of {key!r}")

    @property
    def state(self) -> State:
        """(n, ...) tensors of the items seen, in order."""
        if self._parts:
            parts = [self._state] * bool(self._state) + self._parts
            joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            self._state, self._parts = self._compact(joined), []
        return self._state

    def describe(self, state: State) -> dict[str, np.ndarray]:
        """The columns as arrays (n, ...)."""
        tidy = self._compact(state)  # a merged state is joined, but not yet in order
        if self.unique:
            self._check_unique(tidy["document"].numpy())
        return {key: value.numpy() for key, value in tidy.items() if key != "keep"}

    def _compact(self, state: State) -> State:
        order = state["keep"].nonzero().flatten()
        for key in self.order:
            order = order[torch.argsort(state[key][order], stable=True)]
        return {key: value[order] for key, value in state.items()}

    def _check_unique(self, documents: np.ndarray) -> None:
        twice = documents[1:][documents[1:] == documents[:-1]]
        if twice.size:
            raise ConfigError(
                f"{self.name!r} needs every document whole, and document {int(twice[0])} came in "
                "more than one part"
            )
