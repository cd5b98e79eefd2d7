"""What a definition of outliers is, and what it says of one place.

Axes: P variants (all documents, two halves, replicates), C channels.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

from laminogram.errors import ConfigError
from laminogram.outliers.evidence import Context, Evidence, Place
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.bootstrap import ALL, HALVES, interval

__all__ = ["Context", "Definition", "Entry", "Evidence", "OfPlaces", "Place"]

Quantities = dict[str, np.ndarray]
"""Name -> variants (P,). The first is what the threshold is for."""

WHOLE = "all"
"""The site of an entry that speaks of all places together."""

_OVER: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "max": np.max}


@dataclass(frozen=True)
class Entry:
    """One quantity of one definition at one place.

    `low` and `high` are the ends of its bootstrap interval over documents (NaN without one),
    `halves` its value on two halves of the documents. `verdict` is None where nothing was published
    that would decide, and for quantities that only accompany. `null` is the value where there is
    nothing to find, under the null that was asked for. `site` is a site's name, a norm's name for
    definitions of weights, or `all`; step and layer are -1 where it is of no single one.
    """

    definition: str
    quantity: str
    site: str
    step: int
    layer: int
    value: float
    low: float = float("nan")
    high: float = float("nan")
    halves: tuple[float, float] = (float("nan"), float("nan"))
    threshold: float | None = None
    verdict: bool | None = None
    null: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def decided(self) -> bool | None:
        """Whether the interval lies wholly on one side of the threshold; None without either."""
        if self.threshold is None or self.verdict is None or np.isnan(self.low):
            return None
        return self.low > self.threshold or self.high <= self.threshold

    def row(self) -> dict[str, Any]:
        """The entry as a plain dictionary."""
        return asdict(self) | {"detail": dict(self.detail), "decided": self.decided}


class Definition(ABC):
    """One published definition.

    A subclass says its `name`, its `source`, the `trap` that waits for who implements it, the
    `sites` that it reads (none: whatever sites are asked for) and in which `context`; it takes its
    thresholds as keyword arguments, the published ones by default, and gives them in `options`.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    trap: ClassVar[str]
    sites: ClassVar[tuple[str, ...]] = ()
    context: ClassVar[Context] = "full"
    level: float = 0.95

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" in cls.__dict__:
            _REGISTRY[cls.name] = cls

    def statistics(self) -> tuple[Statistic, ...]:
        """What must be measured at its sites; none for a definition of weights."""
        return ()

    def options(self) -> dict[str, Any]:
        """The thresholds, as JSON values."""
        return {}

    @abstractmethod
    def judge(self, evidence: Evidence) -> Iterator[Entry]:
        """What it says of every place that was measured."""

    def can_read(self, place: Place) -> bool:
        """Whether its statistics were measured at a place."""
        return {one.name for one in self.statistics()} <= set(place.tables)

    def entry(
        self,
        quantity: str,
        variants: np.ndarray,
        place: Place | None = None,
        **more: Any,
    ) -> Entry:
        """An entry from a quantity's variants (P,), with its interval."""
        low, high = interval(variants, self.level)
        first, second = (float(value) for value in variants[HALVES])
        return Entry(
            self.name,
            quantity,
            WHOLE if place is None else place.site,
            -1 if place is None else place.step,
            -1 if place is None else place.layer,
            float(variants[ALL]),
            float(low),
            float(high),
            (first, second),
            **more,
        )

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.options().items())
        return f"{type(self).__name__}({options})"


class OfPlaces(Definition):
    """A definition that judges each place by itself: a subclass says its `quantities`.

    The first quantity is held against the threshold (None where none was published; then there is
    no verdict). `overall` names quantities that are published over all places, and how.
    """

    overall: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = threshold

    def options(self) -> dict[str, Any]:
        """The threshold."""
        return {"threshold": self.threshold}

    @abstractmethod
    def quantities(self, place: Place) -> Quantities:
        """The numbers of one place, (P,) each."""

    def detail(self, place: Place) -> dict[str, Any]:
        """What else there is to say of a place: channels, counts."""
        return {}

    def holds(self, quantities: Mapping[str, float]) -> bool | None:
        """The verdict of a place; None where no threshold was published."""
        first = next(iter(quantities.values()))
        return None if self.threshold is None else bool(first > self.threshold)

    def judge(self, evidence: Evidence) -> Iterator[Entry]:
        """Place by place, then over all."""
        seen: dict[str, list[np.ndarray]] = {}
        for place in evidence.places(self.sites or evidence.sites(self.context), self.context):
            if not self.can_read(place):
                continue
            quantities = self.quantities(place)
            verdict = self.holds({key: float(value[ALL]) for key, value in quantities.items()})
            for number, (name, variants) in enumerate(quantities.items()):
                seen.setdefault(name, []).append(variants)
                more: dict[str, Any] = {}
                if number == 0:
                    more = {
                        "threshold": self.threshold,
                        "verdict": verdict,
                        "detail": self.detail(place),
                    }
                yield self.entry(name, variants, place, **more)
        for name, ways in self.overall.items():
            for way in ways:
                if name in seen:
                    yield self.entry(f"{name}, {way}", _OVER[way](np.stack(seen[name]), axis=0))


_REGISTRY: dict[str, type[Definition]] = {}


def available() -> tuple[str, ...]:
    """The names of all definitions: every module of `definitions` is asked."""
    package = importlib.import_module("laminogram.outliers.definitions")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(sorted(_REGISTRY))


def find(name: str) -> type[Definition]:
    """The class of a definition. Raises ConfigError naming what exists."""
    names = available()
    if name not in names:
        raise ConfigError(f"there is no definition {name!r}; there are: {', '.join(names)}")
    return _REGISTRY[name]


def create(what: str | Definition | type[Definition]) -> Definition:
    """A definition from its name, its class, or itself."""
    if isinstance(what, Definition):
        return what
    return find(what)() if isinstance(what, str) else what()
