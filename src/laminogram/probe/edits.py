"""Edits: what is written at a site, for chosen layers, heads, experts, channels, positions, phases.

    edits.zero("ffn_out", layers=7, channels=[133])
    edits.winsorise("resid_post", quantile=0.999, dose=0.5)
    edits.patch("attn_out", gram, layers=[3, 4], positions=[5])
    edits.weights.scale_entry("layers.1.ffn.down.weight", 788, 2427, factor=0)

An edit is a value: it can be compared and printed, and does nothing until a view carries it. Most
are `x -> clamp(x * scale + shift, low, high)` on what they select, each entry by itself; with scale
0 the old value plays no part. Some need the whole row of a token (`rows`), read it all and write
what they select. All are out of place and differentiable. What an edit leaves alone keeps its bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from laminogram.errors import EditError
from laminogram.probe import rows, sources
from laminogram.probe import weight_edits as weights
from laminogram.probe.gram import Gram
from laminogram.probe.numbers import Numbers, is_one, numbers, whole
from laminogram.probe.sources import Source
from laminogram.probe.statistics import Measurement

__all__ = [
    "Edit",
    "add",
    "apply",
    "clip",
    "mean",
    "normalise",
    "patch",
    "resample",
    "rotate",
    "scale",
    "set_to",
    "sign",
    "weights",
    "winsorise",
    "zero",
]

Phase = Literal["all", "prompt", "new"]
Positions = Numbers | Iterable[Iterable[int]] | None
Values = float | Sequence[float] | np.ndarray | Tensor
INFINITY = float("inf")
_numbers = partial(numbers, error=EditError, why="the edit would select nothing")
MOST = 2.0
"""The largest dose: as far beyond the edit as the edit is from the old value."""


@dataclass(frozen=True, eq=False)
class EntryChange:
    """`x -> clamp(x * scale + shift, low, high)`. The values broadcast against the selected
    channels (or the whole trailing shape of the site)."""

    scale: Tensor
    shift: Tensor
    low: Tensor
    high: Tensor

    @property
    def values(self) -> tuple[Tensor, ...]:
        """What tells it from another of its kind."""
        return self.scale, self.shift, self.low, self.high

    def dosed(self, dose: float) -> EntryChange:
        """`x + dose * (edited - x)`, where there are no bounds."""
        return EntryChange(1 + dose * (self.scale - 1), dose * self.shift, self.low, self.high)


@dataclass(frozen=True, eq=False)
class RowChange:
    """`x -> function(x, *values)` for the whole row; where `spread`, the values broadcast as those
    of an `EntryChange` do, else they belong to the function alone."""

    function: Callable[..., Tensor]
    values: tuple[Tensor, ...] = ()
    spread: bool = False


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit; make it with the functions of this module.

    layers, steps: where in the plan (None: wherever the site is); heads, experts, channels: along
    those axes of the site (None: all); positions: places in a row, negative ones counted from the
    end of the prompt, the same in every row or a list of them for each; phase: tokens of the
    prompt, generated ones, or all. dose: 0 leaves everything as it is, 1 is the edit, and what lies
    between and up to 2 is on the line through both. `source` holds what is written token by token.
    """

    kind: str
    site: str
    change: EntryChange | RowChange
    layers: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    experts: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    positions: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = None
    phase: Phase = "all"
    dose: float = 1.0
    source: Source | None = None

    def __str__(self) -> str:
        return self._text if self.module is None else self._described()

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def rows(self) -> int | None:
        """How many rows the run must have, of which each has positions or values of its own; None
        where all rows share them."""
        if self.positions is not None and isinstance(self.positions[0], tuple):
            return len(self.positions)
        counts = () if self.source is None else (len(x) for x in self.source.values.values())
        return next((count for count in counts if count > 1), None)

    @property
    def module(self) -> nn.Module | None:
        """The module that `apply` runs; it may learn, so the edit's text follows its weights."""
        function = getattr(self.change, "function", None)
        return function if isinstance(function, nn.Module) else None

    @cached_property
    def _text(self) -> str:
        return self._described()

    def _described(self) -> str:
        parts = [repr(self.site)]
        for name in ("layers", "steps", "heads", "experts", "channels", "positions"):
            chosen = getattr(self, name)
            if chosen is not None:
                parts.append(f"{name}={[list(x) if isinstance(x, tuple) else x for x in chosen]}")
        if self.phase != "all":
            parts.append(f"phase={self.phase!r}")
        if self.dose != 1:
            parts.append(f"dose={self.dose!r}")
        if self.module is not None:
            parts.append(f"module={type(self.module).__name__}")
        return f"{self.kind}({', '.join(parts)}, values={self._digest()})"

    def _digest(self) -> str:
        """The values themselves where they are one number each, else a short hash of them."""
        tensors = list(self.change.values)
        small = all(tensor.numel() == 1 for tensor in tensors)
        if self.source is None and self.module is None and small:
            return "/".join(repr(float(tensor)) for tensor in tensors)
        if self.source is not None:
            tensors += self.source.tensors()
        digest = hashlib.sha256()
        if self.module is not None:
            digest.update(_settings(self.module).encode())
            tensors += [*self.module.parameters(), *self.module.buffers()]
        for tensor in tensors:
            digest.update(str(tuple(tensor.shape)).encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]


def zero(site: str, **where: Any) -> Edit:
    """Write 0. `where`: layers, steps, heads, experts, channels, positions, phase, dose, as in
    `Edit`."""
    return _edit("zero", site, _entries(scale=0.0), **where)


def set_to(site: str, value: Values, **where: Any) -> Edit:
    """Write a value: a number, or one for each selected channel."""
    return _edit("set", site, _entries(scale=0.0, shift=value), **where)


def scale(site: str, factor: Values, **where: Any) -> Edit:
    """Multiply by a factor: a number, or one for each selected channel."""
    return _edit("scale", site, _entries(scale=factor), **where)


def add(site: str, value: Values, **where: Any) -> Edit:
    """Add a value: a number, or one for each selected channel (a steering vector)."""
    return _edit("add", site, _entries(shift=value), **where)


def clip(site: str, *, low: Values = -INFINITY, high: Values = INFINITY, **where: Any) -> Edit:
    """Keep values between `low` and `high`."""
    if bool((_values(low) > _values(high)).any()):
        raise EditError(f"low is {low}, above high, {high}: nothing lies between")
    change: EntryChange | RowChange = _entries(low=low, high=high)
    if where.get("dose", 1.0) != 1:
        change = RowChange(rows.clipped, (_values(low), _values(high)), spread=True)
    return _edit("clip", site, change, **where)


def patch(site: str, gram: Gram, **where: Any) -> Edit:
    """Write what another run had at the same site, step, position and channel.

    The gram must hold the site for every selected step; its rows are the run's rows, or one row for
    all. Positions that the gram does not have are left alone.
    """
    return _from("patch", site, sources.of_run(site, gram), where)


def mean(
    site: str, of: Source | Gram | Iterable[Gram] | Measurement, *, first: int = 1, **where: Any
) -> Edit:
    """Write the mean over other texts: for each of the `first` positions its own, and one for all
    later positions (the first token carries most outliers, and its mean is like no other token's).

    of: one or more grams of the site; or a measurement of `moments` or `channels`, which knows no
    positions and so has one mean for all; or what `sources.of_means` made of such. Ablation by
    bucketed means: Sun et al. 2024, Owen et al. 2025.
    """
    return _from("mean", site, sources.of_means(site, of, first), where)


def resample(site: str, gram: Gram, *, seed: int = 0, **where: Any) -> Edit:
    """Write what another token of the gram had, whole: drawn by seed and position, and the same
    token at every step and in every row. A first token gets a first token's values."""
    return _from("resample", site, sources.of_other_tokens(site, gram, seed), where)


def winsorise(
    site: str, *, quantile: float | None = None, bound: Values | None = None, **where: Any
) -> Edit:
    """Hold |x| back to a quantile of the row's |x|, or to a bound: a number, or one for each
    selected channel. What is held back keeps its sign."""
    if (quantile is None) == (bound is None):
        raise EditError("winsorise takes a quantile of the row or a bound, one of the two")
    if bound is not None:
        high = _values(bound)
        if bool((high < 0).any()):
            raise EditError(f"bound is {bound}; a size cannot be held below 0")
        return clip(site, low=-high, high=high, **where)
    if not 0 <= cast(float, quantile) <= 1:
        raise EditError(f"quantile is {quantile}; it must lie between 0 and 1")
    change = RowChange(rows.winsorised, (_values(cast(float, quantile)),))
    return _edit("winsorise", site, change, **where)


def sign(site: str, magnitude: Values, **where: Any) -> Edit:
    """Keep the sign and write the size: a number, or one for each selected channel. 0 stays 0. The
    gradient is straight-through: as if the entry were left alone."""
    if bool((_values(magnitude) < 0).any()):
        raise EditError(f"magnitude is {magnitude}; the sign is kept, so it must be 0 or more")
    return _edit("sign", site, RowChange(rows.signed, (_values(magnitude),), spread=True), **where)


def normalise(
    site: str, *, rms: float | None = None, length: float | None = None, **where: Any
) -> Edit:
    """Scale the row to a root mean square, or to a Euclidean length. A row of zeros stays."""
    wanted = rms if length is None else length
    if wanted is None or (rms is not None and length is not None) or wanted < 0:
        raise EditError("normalise takes an rms or a length, one of the two, and 0 or more")
    function = rows.to_rms if length is None else rows.to_length
    return _edit("normalise", site, RowChange(function, (_values(wanted),)), **where)


def rotate(site: str, matrix: np.ndarray | Tensor, **where: Any) -> Edit:
    """Multiply the row by an orthogonal matrix (C, C): `x @ matrix`. The model stays the same only
    where the weights that read the site undo it (`weights.rotate` does so for the residual)."""
    values = _values(matrix)
    weights.check_orthogonal(values)
    return _edit("rotate", site, RowChange(rows.rotated, (values,)), **where)


def apply(site: str, module: nn.Module, **where: Any) -> Edit:
    """Run any module from the site's tensor (B, T, ...) to one of the same shape, and write what is
    selected of it.

    It must treat each token by itself, or else a cache, a batch and its rows give different texts;
    of `pattern` (B, H, T, S) it gets each query's weights, 0 where the mask forbids, and of `state`
    one token at a time. It lies where the site does. Its gradients reach its own parameters. It is
    named by its class and a hash of its settings and weights.
    """
    if not isinstance(module, nn.Module):
        raise EditError(
            f"{module!r} is no torch.nn.Module: a function has no settings that a manifest could "
            "name, so wrap it in a module"
        )
    return _edit("apply", site, RowChange(module), **where)


def _from(kind: str, site: str, source: Source, where: dict[str, Any]) -> Edit:
    """An edit that writes a source, at the steps that it has unless others are named."""
    if where.get("layers") is None and where.get("steps") is None and min(source.values) >= 0:
        where["steps"] = tuple(source.values)
    return _edit(kind, site, _entries(scale=0.0), source=source, **where)


def _entries(
    *,
    scale: Values = 1.0,
    shift: Values = 0.0,
    low: Values = -INFINITY,
    high: Values = INFINITY,
) -> EntryChange:
    return EntryChange(_values(scale), _values(shift), _values(low), _values(high))


def _edit(
    kind: str,
    site: str,
    change: EntryChange | RowChange,
    *,
    layers: Numbers | None = None,
    steps: Numbers | None = None,
    heads: Numbers | None = None,
    experts: Numbers | None = None,
    channels: Numbers | None = None,
    positions: Positions = None,
    phase: Phase = "all",
    dose: float = 1.0,
    source: Source | None = None,
) -> Edit:
    if phase not in ("all", "prompt", "new"):
        raise EditError(f"phase is {phase!r}; it must be 'all', 'prompt' or 'new'")
    if not 0 <= dose <= MOST:
        raise EditError(f"dose is {dose}; it goes from 0 (unchanged) over 1 (the edit) to {MOST:g}")
    if isinstance(change, EntryChange) and dose != 1:
        change = change.dosed(dose)
    return Edit(
        kind=kind,
        site=site,
        change=change,
        layers=_numbers("layers", layers),
        steps=_numbers("steps", steps),
        heads=_numbers("heads", heads),
        experts=_numbers("experts", experts),
        channels=_numbers("channels", channels),
        positions=_positions(positions),
        phase=phase,
        dose=float(dose),
        source=source,
    )


def _settings(module: nn.Module) -> str:
    """What a module is beside its weights: its printed form and plain attributes."""
    plain = [
        f"{name}.{key}={value!r}"
        for name, part in module.named_modules()
        for key, value in sorted(vars(part).items())
        if isinstance(value, bool | int | float | str | tuple) and key != "training"
    ]
    return "\n".join([repr(module), *plain])


def _values(value: Values) -> Tensor:
    if not isinstance(value, Tensor | np.ndarray):
        return torch.tensor(value, dtype=torch.float64)  # Python numbers keep their digits
    tensor = torch.as_tensor(value).detach().clone()
    return tensor if tensor.is_floating_point() else tensor.double()


def _positions(
    chosen: Positions,
) -> tuple[int, ...] | tuple[tuple[int, ...], ...] | None:
    """The same for every row as numbers, or a tuple for each row, of which some may be empty."""
    if chosen is None or is_one(chosen) or not isinstance(chosen, Iterable):
        return _numbers("positions", chosen)
    each: list[Any] = list(chosen)
    if not each or is_one(each[0]) or not isinstance(each[0], Iterable) or isinstance(chosen, str):
        return _numbers("positions", each)
    found = tuple(whole("positions", row, EditError) for row in each)
    if not any(found):
        raise EditError("positions are empty in every row: the edit would select nothing")
    return found
