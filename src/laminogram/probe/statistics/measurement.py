"""Statistics of many sites and steps, as one value that merges, saves and gives tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any

import numpy as np
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.gram import MissingError, runs
from laminogram.probe.statistics.base import Statistic, create, find
from laminogram.probe.statistics.passes import Wanted
from laminogram.probe.statistics.rows import Selection
from laminogram.probe.store import read_tensors, write_tensors

Key = tuple[str, str, int]
Kinds = Iterable[str | Statistic | type[Statistic]]
_FORMAT = "laminogram-measurement/1"
_ONE = ("plan", "edits", "precision", "v_first", "weights_hash")
"""Conditions of which all parts of a measurement must say the same, where they say anything."""


class Measurement(Mapping[Key, Statistic]):
    """A mapping (statistic, site, step) -> `Statistic`.

    `statistics` are names, classes or statistics whose options are to be used, or a mapping from
    sites to such; they are what `observe` starts at every (site, step) it meets. `step_layers` maps
    a step to its (layer, part); `manifest` says under what conditions the numbers were taken.
    """

    def __init__(
        self,
        statistics: Kinds | Mapping[str, Kinds] = (),
        step_layers: Mapping[int, tuple[int, str | None]] | None = None,
        manifest: Mapping[str, Any] | None = None,
        entries: Mapping[Key, Statistic] | None = None,
    ) -> None:
        self._templates: dict[str | None, tuple[Statistic, ...]]
        if isinstance(statistics, Mapping):
            self._templates = {site: _created(kinds) for site, kinds in statistics.items()}
        else:
            self._templates = {None: _created(statistics)}
        self._entries: dict[Key, Statistic] = dict(entries or {})
        self.step_layers = dict(step_layers or {})
        self.manifest = dict(manifest or {})

    def observe(
        self,
        site: str,
        step: int,
        x: Tensor,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> None:
        """Take one batch of one site at one step into every statistic; see `Rows.of`."""
        selection = Selection.of(x, mask, documents, positions)
        self.observe_selected(self.templates(site), site, step, x, selection)

    def observe_selected(
        self,
        templates: Iterable[Statistic],
        site: str,
        step: int,
        x: Tensor,
        selection: Selection,
    ) -> None:
        """Take the selected tokens of x into the statistics that these templates begin."""
        chosen = [self.statistic(template, site, step) for template in templates]
        rows = selection.rows(x, Wanted.union(one.wanted() for one in chosen))
        for statistic in chosen:
            statistic.observe(rows)

    def statistic(self, template: Statistic, site: str, step: int) -> Statistic:
        """The statistic at an address, begun by a template where it is new."""
        key = (template.name, site, step)
        if key not in self._entries:
            self._entries[key] = template.fresh()
        return self._entries[key]

    def templates(self, site: str) -> tuple[Statistic, ...]:
        """The statistics that are taken at a site, as they are before the first token."""
        return self._templates.get(None, ()) + self._templates.get(site, ())

    def __getitem__(self, key: Key) -> Statistic:
        if key not in self._entries:
            raise MissingError(f"nothing was measured at {key!r}; {self._what_exists()}")
        return self._entries[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def statistics(self) -> tuple[str, ...]:
        """The names of the statistics, in order."""
        return tuple(sorted({name for name, _, _ in self._entries}))

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that were measured, in order."""
        return tuple(sorted({site for _, site, _ in self._entries}))

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that were measured, in order."""
        return tuple(sorted({step for _, _, step in self._entries}))

    def merge(self, other: Measurement) -> Measurement:
        """A new measurement of the tokens of both.

        Steps must stand for the same layers, and what both manifests say of weights, precision,
        plan, edits and v_first must be the same. Where they differ in anything else, the new one
        keeps both under `merged`. Raises ConfigError.
        """
        for step in self.step_layers.keys() & other.step_layers.keys():
            if tuple(self.step_layers[step]) != tuple(other.step_layers[step]):
                raise ConfigError(
                    f"step {step} is {self.step_layers[step]} in one measurement and "
                    f"{other.step_layers[step]} in the other; they ran different plans"
                )
        parts = [*_parts(self.manifest), *_parts(other.manifest)]
        _check_conditions(parts)
        entries = {
            key: _joined(self._entries.get(key), other._entries.get(key))
            for key in self._entries.keys() | other._entries.keys()
        }
        manifest = self.manifest
        if self.manifest != other.manifest:
            manifest = {"merged": parts}
        merged = Measurement((), self.step_layers | other.step_layers, manifest, entries)
        merged._templates = self._templates
        return merged

    def table(self, statistic: str, site: str) -> dict[str, np.ndarray]:
        """A statistic of one site at all its steps: its `result()` arrays stacked, step first.

        Also `step` (S,) and `layer` (S,), -1 where a step is of no layer. Raises SiteError for what
        was not measured, ConfigError where the steps' arrays differ in shape.
        """
        steps = [step for name, at, step in self if (name, at) == (statistic, site)]
        if not steps:
            raise MissingError(f"{statistic!r} was not measured at {site!r}; {self._what_exists()}")
        results = [self[statistic, site, step].result() for step in steps]
        table = {
            "step": np.asarray(steps),
            "layer": np.asarray([self.step_layers.get(step, (-1, None))[0] for step in steps]),
        }
        for key in results[0]:
            shapes = {result[key].shape for result in results}
            if len(shapes) > 1:
                raise ConfigError(
                    f"{key!r} of {statistic!r} at {site!r} has different shapes at different "
                    f"steps ({', '.join(map(str, sorted(shapes)))}): ask for single steps with "
                    "measurement[statistic, site, step].result()"
                )
            table[key] = np.stack([result[key] for result in results])
        return table

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to one safetensors file, at once or not at all."""
        tensors: dict[str, Tensor] = {}
        listed = []
        for number, key in enumerate(self):
            statistic = self._entries[key]
            listed.append([*key, statistic.options()])
            for name, value in statistic.state_dict().items():
                tensors[f"{number}.{name}"] = value
        layers = [[step, *where] for step, where in sorted(self.step_layers.items())]
        metadata = {
            "manifest": json.dumps(self.manifest),
            "measurement": json.dumps({"entries": listed, "step_layers": layers}),
        }
        write_tensors(path, _FORMAT, tensors, metadata)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Measurement:
        """Read what `save` wrote. Raises StoreError for any other file."""
        tensors, metadata = read_tensors(path, _FORMAT)
        header = json.loads(metadata["measurement"])
        states: list[dict[str, Tensor]] = [{} for _ in header["entries"]]
        for name, value in tensors.items():
            number, key = name.split(".", 1)
            states[int(number)][key] = value
        entries: dict[Key, Statistic] = {}
        for (name, site, step, options), state in zip(header["entries"], states, strict=True):
            entries[name, site, step] = find(name).from_state(options, state)
        layers = {step: (layer, part) for step, layer, part in header["step_layers"]}
        return cls((), layers, json.loads(metadata["manifest"]), entries)

    def _what_exists(self) -> str:
        if not self._entries:
            return "nothing was measured at all"
        return (
            f"there are the statistics {', '.join(self.statistics)} at the sites "
            f"{', '.join(self.sites)} and the steps {runs(self.steps)}"
        )

    def __repr__(self) -> str:
        if not self._entries:
            return "Measurement (empty)"
        lines = [f"Measurement of {len(self._entries)} (statistic, site, step)"]
        pairs = sorted({(name, site) for name, site, _ in self._entries})
        width = [max(len(pair[i]) for pair in pairs) for i in (0, 1)]
        for name, site in pairs:
            steps = [step for n, s, step in self if (n, s) == (name, site)]
            lines.append(f"  {name:<{width[0]}}  {site:<{width[1]}}  steps {runs(steps)}")
        return "\n".join(lines)


def _created(kinds: Kinds) -> tuple[Statistic, ...]:
    templates = tuple(create(what) for what in kinds)
    names = [template.name for template in templates]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"asked for twice: {', '.join(twice)}; one of each kind is possible")
    return templates


def _joined(a: Statistic | None, b: Statistic | None) -> Statistic:
    if a is not None and b is not None:
        return a.merge(b)
    only = a if a is not None else b
    assert only is not None
    return only.merge(only.fresh())  # a copy: the two measurements stay independent


def _parts(manifest: dict[str, Any]) -> list[Any]:
    return manifest["merged"] if set(manifest) == {"merged"} else [manifest]


def _check_conditions(parts: Iterable[Mapping[str, Any]]) -> None:
    for name in _ONE:
        said = [part[name] for part in parts if part.get(name) is not None]
        other = next((value for value in said if value != said[0]), None)
        if other is not None:
            raise ConfigError(
                f"the measurements differ in {name}: {said[0]!r} in one, {other!r} in the other; "
                "only tokens of one model under one set of conditions are one measurement"
            )
