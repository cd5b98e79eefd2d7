"""Edits: what is written at a site, for chosen layers, heads, experts, channels, positions, phases.

    edits.zero("ffn_out", layers=7, channels=[133])
    edits.clip("resid_post", low=-50, high=50)
    edits.patch("attn_out", gram, layers=[3, 4], positions=[5])

An edit is a value: it can be compared and printed, and does nothing until a view carries it.
Every edit is `x -> clamp(x * scale + shift, low, high)` on what it selects, out of place and
differentiable; with scale 0 the old value plays no part. What it leaves alone keeps its bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import EditError
from laminogram.probe.gram import Gram

Phase = Literal["all", "prompt", "new"]
Numbers = int | Iterable[int] | None
Values = float | Sequence[float] | np.ndarray | Tensor
INFINITY = float("inf")


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit; make it with the functions of this module.

    layers, steps: where in the plan (None: wherever the site is); heads, experts, channels: along
    those axes of the site (None: all); positions: places in a row, negative ones counted from the
    end of the prompt; phase: tokens of the prompt, generated ones, or all. `scale`, `shift`, `low`,
    `high` broadcast against the selected channels (or the whole trailing shape of the site). For a
    patch, `source` holds, for each step, values (B, T, ...).
    """

    kind: str
    site: str
    scale: Tensor
    shift: Tensor
    low: Tensor
    high: Tensor
    layers: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    experts: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    phase: Phase = "all"
    source: dict[int, Tensor] | None = field(default=None, repr=False)
    source_lengths: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        parts = [repr(self.site)]
        for name in ("layers", "steps", "heads", "experts", "channels", "positions"):
            chosen = getattr(self, name)
            if chosen is not None:
                parts.append(f"{name}={list(chosen)}")
        if self.phase != "all":
            parts.append(f"phase={self.phase!r}")
        return f"{self.kind}({', '.join(parts)}, values={self._digest()})"

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def _digest(self) -> str:
        """The values themselves where they are one number, else a short hash of them."""
        tensors = [self.scale, self.shift, self.low, self.high]
        if self.source is None and all(tensor.numel() == 1 for tensor in tensors):
            return "/".join(repr(float(tensor)) for tensor in tensors)
        for step, values in sorted((self.source or {}).items()):
            tensors += [torch.tensor(step), values]
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(str(tuple(tensor.shape)).encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]


def zero(site: str, **where: Any) -> Edit:
    """Write 0. `where`: layers, steps, heads, experts, channels, positions, phase, as in `Edit`."""
    return _edit("zero", site, scale=0.0, **where)


def set_to(site: str, value: Values, **where: Any) -> Edit:
    """Write a value: a number, or one for each selected channel."""
    return _edit("set", site, scale=0.0, shift=value, **where)


def scale(site: str, factor: Values, **where: Any) -> Edit:
    """Multiply by a factor: a number, or one for each selected channel."""
    return _edit("scale", site, scale=factor, **where)


def add(site: str, value: Values, **where: Any) -> Edit:
    """Add a value: a number, or one for each selected channel (a steering vector)."""
    return _edit("add", site, shift=value, **where)


def clip(site: str, *, low: Values = -INFINITY, high: Values = INFINITY, **where: Any) -> Edit:
    """Keep values between `low` and `high`."""
    return _edit("clip", site, low=low, high=high, **where)


def patch(site: str, gram: Gram, **where: Any) -> Edit:
    """Write what another run had at the same site, step, position and channel.

    The gram must hold the site for every selected step; its rows are the run's rows, or one row for
    all. Positions that the gram does not have are left alone.
    """
    if gram.manifest.get("phase") == "new":
        raise EditError("a gram of new tokens alone does not say where in their rows they stand")
    lengths = tuple(int(n) for n in gram.mask.sum(1))
    source = {step: _aligned(gram, gram.tensor(site, step)) for name, step in gram if name == site}
    if not source:
        raise EditError(f"the gram to patch from holds no {site!r}; it holds {gram.sites}")
    if where.get("layers") is None and where.get("steps") is None:
        where["steps"] = tuple(source)
    return _edit("patch", site, scale=0.0, source=source, source_lengths=lengths, **where)


def _aligned(gram: Gram, x: Tensor) -> Tensor:
    """`x` (B, T, ...) with each row's real tokens first, wherever the user padded."""
    order = torch.from_numpy((~gram.mask).argsort(axis=1, kind="stable")).to(x.device)
    index = order.reshape(*order.shape, *[1] * (x.dim() - 2))
    return x.gather(1, index.expand(x.shape))


def _edit(
    kind: str,
    site: str,
    *,
    scale: Values = 1.0,
    shift: Values = 0.0,
    low: Values = -INFINITY,
    high: Values = INFINITY,
    layers: Numbers = None,
    steps: Numbers = None,
    heads: Numbers = None,
    experts: Numbers = None,
    channels: Numbers = None,
    positions: Numbers = None,
    phase: Phase = "all",
    source: dict[int, Tensor] | None = None,
    source_lengths: tuple[int, ...] = (),
) -> Edit:
    if phase not in ("all", "prompt", "new"):
        raise EditError(f"phase is {phase!r}; it must be 'all', 'prompt' or 'new'")
    if bool((_values(low) > _values(high)).any()):
        raise EditError(f"low is {low}, above high, {high}: nothing lies between")
    return Edit(
        kind=kind,
        site=site,
        scale=_values(scale),
        shift=_values(shift),
        low=_values(low),
        high=_values(high),
        layers=_numbers("layers", layers),
        steps=_numbers("steps", steps),
        heads=_numbers("heads", heads),
        experts=_numbers("experts", experts),
        channels=_numbers("channels", channels),
        positions=_numbers("positions", positions),
        phase=phase,
        source=source,
        source_lengths=source_lengths,
    )


def _values(value: Values) -> Tensor:
    if not isinstance(value, Tensor | np.ndarray):
        return torch.tensor(value, dtype=torch.float64)  # Python numbers keep their digits
    tensor = torch.as_tensor(value).detach().clone()
    return tensor if tensor.is_floating_point() else tensor.double()


def _numbers(name: str, chosen: Numbers) -> tuple[int, ...] | None:
    if chosen is None:
        return None
    numbers = (int(chosen),) if isinstance(chosen, SupportsIndex) else tuple(map(int, chosen))
    if not numbers:
        raise EditError(f"{name} is empty: the edit would select nothing")
    return numbers
