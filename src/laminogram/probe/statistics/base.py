"""What a streaming statistic is.

A statistic is two functions on plain tensors: `reduce` turns rows into a state, `combine` joins two
states. Everything else (updating, merging, saving) follows from these, so that a new statistic is
one file with a subclass of `Statistic` that has a `name`.

Policy for non-finite values: an infinity or NaN takes no part in any statistic, and every statistic
counts those that it left out.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.statistics.passes import Wanted
from laminogram.probe.statistics.rows import Rows

State = dict[str, Tensor]
"""Named tensors that summarise rows; empty before the first row."""


class Statistic(ABC):
    """A statistic that streams and merges.

    A subclass sets `name`, takes its options as keyword arguments and gives them back in
    `options()`, and defines `reduce`, `combine` and `describe`.
    """

    name: ClassVar[str]
    addressed: ClassVar[bool] = False
    """Whether it needs to know the document and position of every row."""
    of_pattern: ClassVar[bool] = False
    """Whether it reads attention patterns (heads by keys) instead of channels."""
    grows_by: ClassVar[Literal["tokens", "documents"] | None] = None
    """What its memory grows with; None where it has one size for any data."""

    def __init__(self) -> None:
        self._state: State = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" not in cls.__dict__:
            return
        known = _REGISTRY.get(cls.name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise ConfigError(
                f"two statistics are called {cls.name!r}: {known.__qualname__} of "
                f"{known.__module__} and {cls.__qualname__} of {cls.__module__}"
            )
        _REGISTRY[cls.name] = cls

    def options(self) -> dict[str, Any]:
        """The keyword arguments that make this statistic again, as JSON values."""
        return {}

    def wanted(self) -> Wanted:
        """What it can use of a compiled pass over all values, where rows come with one."""
        return Wanted()

    @abstractmethod
    def reduce(self, rows: Rows) -> State:
        """The state of these rows alone (at least one row)."""

    @abstractmethod
    def combine(self, a: State, b: State) -> State:
        """The state of two disjoint sets of rows, from theirs. Changes neither."""

    @abstractmethod
    def describe(self, state: State) -> dict[str, np.ndarray]:
        """What a reader wants to know, from a state on the CPU."""

    def update(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> None:
        """Take in one batch; see `Rows.of` for the arguments. Several statistics of one tensor
        share the work when they `observe` the same rows."""
        self.observe(Rows.of(x, mask, documents, positions, self.wanted()))

    def observe(self, rows: Rows) -> None:
        """Take in prepared rows, which know no gradient; no rows change nothing."""
        if self.addressed and (rows.documents is None or rows.positions is None):
            raise ConfigError(f"the statistic {self.name!r} needs the document of every row")
        if rows.values.shape[0]:
            self.take(self.reduce(rows))

    def take(self, state: State) -> None:
        """Take in the state of further rows."""
        self._state = self.combine(self._state, state) if self._state else state

    def memory(self, channels: int, tokens: int = 1, documents: int = 1) -> int:
        """Bytes that the state takes at a site of so many channels (of a pattern: heads), after so
        much data."""
        site = torch.zeros(1, 1, channels, 1) if self.of_pattern else torch.zeros(1, 1, channels)
        one = self.fresh().reduce(Rows.of(site, documents=torch.zeros(1)))
        items = {"tokens": tokens, "documents": documents, None: 1}[self.grows_by]
        return items * sum(value.nbytes for value in one.values())

    @property
    def state(self) -> State:
        """The tensors that hold what was seen, where they live; empty before the first row."""
        return self._state

    @torch.no_grad()
    def merge(self, other: Statistic) -> Self:
        """A new statistic of what either has seen, on this one's device.

        Raises ConfigError for another kind of statistic, other options or another width.
        """
        if type(other) is not type(self) or other.options() != self.options():
            raise ConfigError(f"{other!r} cannot be merged into {self!r}")
        mine, theirs = self.state, other.state
        merged = self.fresh()
        if mine and theirs:
            device = next(iter(mine.values())).device
            theirs = {key: value.to(device) for key, value in theirs.items()}
            self._check_width(mine, theirs)
            merged._state = self.combine(mine, theirs)
        else:
            merged._state = {key: value.clone() for key, value in (mine or theirs).items()}
        return merged

    def _check_width(self, a: State, b: State) -> None:
        for key, value in a.items():
            if value.shape != b[key].shape:
                raise ConfigError(
                    f"{self.name!r} of {tuple(value.shape)} and of {tuple(b[key].shape)} "
                    "channels cannot be merged"
                )

    def result(self) -> dict[str, np.ndarray]:
        """Named numpy arrays; see the class for their meaning. Raises ConfigError if nothing was
        seen."""
        if not self.state:
            raise ConfigError(f"the statistic {self.name!r} has seen no tokens")
        owned = {key: value.to("cpu", copy=True) for key, value in self.state.items()}
        return self.describe(owned)

    def state_dict(self) -> State:
        """The state as contiguous CPU tensors, for a file."""
        return {key: value.cpu().contiguous() for key, value in self.state.items()}

    @classmethod
    def from_state(cls, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> Self:
        """The statistic that gave these `options()` and this `state_dict()`."""
        statistic = cls(**options)
        statistic._state = dict(state)
        return statistic

    def fresh(self) -> Self:
        """A statistic of the same kind and options that has seen nothing."""
        return type(self)(**self.options())

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.options().items())
        return f"{type(self).__name__}({options})"


_REGISTRY: dict[str, type[Statistic]] = {}


def available() -> tuple[str, ...]:
    """The names of all statistics: every module of this package is asked."""
    package = importlib.import_module("laminogram.probe.statistics")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(sorted(_REGISTRY))


def find(name: str) -> type[Statistic]:
    """The class of a statistic. Raises ConfigError naming what exists."""
    names = available()
    if name not in names:
        raise ConfigError(f"there is no statistic {name!r}; there are: {', '.join(names)}")
    return _REGISTRY[name]


def create(what: str | Statistic | type[Statistic]) -> Statistic:
    """A statistic that has seen nothing, from a name, a class or another one with its options."""
    if isinstance(what, Statistic):
        return what.fresh()
    return find(what)() if isinstance(what, str) else what()
