"""Slots: an edit as tensors at one site of one step, laid out over it and renewed for each run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from laminogram.errors import EditError, SiteError
from laminogram.probe.edits import Edit, RowChange
from laminogram.stack.sites import Site
from laminogram.stack.taps import EditSlot, EntrySlot, RowSlot, Run


def source_at(edit: Edit, site: Site, step: int, sizes: Mapping[str, int]) -> Tensor | None:
    """What an edit writes at a step, (R, P, ...) with the site's axes after the tokens."""
    if edit.source is None:
        return None
    if step not in edit.source.values:
        raise EditError(f"what {edit.kind} writes holds no {edit.site!r} at step {step}")
    values = edit.source.values[step]
    wanted = [sizes.get(axis, 0) for axis in _trailing(site)]
    if site.name == "pattern" or list(values.shape[2:]) == wanted:
        return values
    if values.shape[2:].numel() != math.prod(wanted):
        raise EditError(
            f"what {edit.kind} writes has the shape {tuple(values.shape[2:])} for each token; "
            f"{edit.site!r} of this model has {tuple(wanted)}"
        )
    return values.reshape(*values.shape[:2], *wanted)


def _trailing(site: Site) -> list[str]:
    """The axes of one token's values; of a pattern all but the rows."""
    if site.name == "pattern":
        return ["H", "T", "S"]
    return [axis for axis in site.axes if axis not in ("B", "T")]


def slot_of(edit: Edit, site: Site, sizes: Mapping[str, int], device: torch.device) -> EditSlot:
    """An edit at a site whose axes have these sizes; EditError or SiteError where it does not
    fit."""
    fixed = torch.ones(1, device=device, dtype=torch.bool)
    trailing = _trailing(site)
    for chosen, axis, word in (
        (edit.heads, _head_axis(trailing), "heads"),
        (edit.experts, "E" if "E" in trailing else None, "experts"),
        (edit.channels, trailing[-1] if trailing else None, "channels"),
    ):
        if chosen is None:
            continue
        if axis is None or axis not in sizes:
            raise EditError(f"{site.name!r} (axes {' '.join(site.axes)}) has no axis of {word}")
        mask = _index_mask(chosen, sizes[axis], word, site.name).to(device)
        shape = [1] * len(trailing)
        shape[trailing.index(axis)] = sizes[axis]
        fixed = fixed & mask.view(shape)
    count = torch.zeros((), dtype=torch.int64, device=device)
    rows = torch.ones(1, 1, dtype=torch.bool, device=device)
    common = {"fixed": fixed, "rows": rows, "selected": count, "changed": count.clone()}
    change = edit.change
    if isinstance(change, RowChange):
        _check_row(edit, change, site, sizes)
        dose = torch.tensor(edit.dose, dtype=torch.float64, device=device)
        values = tuple(
            (_spread(one, edit, trailing, sizes) if change.spread else one.clone()).to(device)
            for one in change.values
        )
        return RowSlot(**common, function=change.function, values=values, dose=dose)
    scale, shift, low, high = (
        _spread(one, edit, trailing, sizes).to(device) for one in change.values
    )
    return EntrySlot(
        **common, scale=scale, shift=shift, low=low, high=high, by_token=edit.source is not None
    )


def _check_row(edit: Edit, change: RowChange, site: Site, sizes: Mapping[str, int]) -> None:
    """EditError where a row has no meaning at the site, or another size than a matrix for it."""
    if site.name == "pattern" and edit.kind in ("winsorise", "normalise", "rotate"):
        raise EditError(
            f"{edit.kind} reads a row of channels, and a row of 'pattern' is as long as the text; "
            "zero, set, scale and clip work there"
        )
    size = sizes.get(site.axes[-1])
    if edit.kind == "rotate" and len(change.values[0]) != size:
        raise EditError(
            f"rotate at {edit.site!r} was given a matrix of {len(change.values[0])} channels; the "
            f"site has {size}"
        )


def _head_axis(trailing: Sequence[str]) -> str | None:
    return next((axis for axis in ("H", "K") if axis in trailing), None)


def _index_mask(chosen: Sequence[int], size: int, word: str, site: str) -> Tensor:
    for index in chosen:
        if not -size <= index < size:
            raise SiteError(
                f"{word[:-1]} {index} of {site!r} does not exist: there are 0-{size - 1}"
            )
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.tensor(chosen)] = True
    return mask


def _spread(
    values: Tensor, edit: Edit, trailing: Sequence[str], sizes: Mapping[str, int]
) -> Tensor:
    """Values for the selected channels, laid out over all channels of the site."""
    if values.numel() == 1:
        return values.reshape(()).clone()  # the slot's own: a captured graph's buffers are written
    size = sizes.get(trailing[-1], 0)
    if values.dim() > 1:
        wanted = tuple(sizes.get(axis, 0) for axis in trailing)
        pairs = zip(reversed(values.shape), reversed(wanted))
        if values.dim() > len(wanted) or any(have not in (1, want) for have, want in pairs):
            raise EditError(
                f"{edit.kind} at {edit.site!r} was given values of shape {tuple(values.shape)}; "
                f"the site has {wanted} for each token (axes {' '.join(trailing)})"
            )
    if edit.channels is not None and values.shape[-1] == len(edit.channels):
        spread = values.new_zeros(*values.shape[:-1], size)
        spread[..., torch.tensor(edit.channels)] = values
        return spread
    if values.shape[-1] not in (1, size):  # one may be for all channels of a head
        raise EditError(
            f"{edit.kind} at {edit.site!r} was given {values.shape[-1]} values; it selects "
            f"{size if edit.channels is None else len(edit.channels)} channels"
        )
    return values


def rows_of(edit: Edit, run: Run, prompts: Tensor) -> Tensor:
    """Which rows and columns (B, T) of this forward an edit selects."""
    rows = run.mask
    if edit.phase != "all":
        new = run.positions >= prompts
        rows = rows & (new if edit.phase == "new" else ~new)
    if edit.positions is not None:
        wanted, there = _wanted_positions(edit, run)
        absolute = torch.where(wanted < 0, prompts + wanted, wanted)
        rows = rows & ((run.positions[..., None] == absolute[:, None]) & there[:, None]).any(-1)
    if edit.source is not None and edit.source.lengths is not None:
        known = torch.tensor(edit.source.lengths, device=run.positions.device)[:, None]
        rows = rows & (run.positions < known)
    return rows


def _wanted_positions(edit: Edit, run: Run) -> tuple[Tensor, Tensor]:
    """The positions (1 or B, P) of an edit, and which of them are there: rows may have fewer."""
    chosen = edit.positions or ()
    each = cast(Sequence[tuple[int, ...]], chosen)
    if not isinstance(chosen[0], tuple):
        each = [chosen]
    elif len(each) != len(run.lengths):
        raise EditError(
            f"{edit.kind} at {edit.site!r} has positions for {len(each)} rows; this run has "
            f"{len(run.lengths)}"
        )
    width = max(map(len, each))
    device = run.positions.device
    wanted = torch.tensor([[*row, *[0] * (width - len(row))] for row in each], device=device)
    counts = torch.tensor([len(row) for row in each], device=device)
    return wanted, torch.arange(width, device=device) < counts[:, None]


def values_at(source: Tensor, run: Run, edit: Edit) -> Tensor:
    """What an edit writes (B, T, ...) at the columns of this forward."""
    assert edit.source is not None
    if edit.site == "pattern":
        raise EditError(f"{edit.kind} cannot write a pattern from a gram; set or scale it")
    rows, columns = run.positions.shape
    if source.shape[0] not in (1, rows):
        raise EditError(
            f"the gram to {edit.kind} from has {source.shape[0]} rows, this run has {rows}"
        )
    index = edit.source.columns(run.positions.to(source.device), source.shape[1])
    index = index.reshape(rows, columns, *[1] * (source.dim() - 2))
    found = source.expand(rows, *source.shape[1:]).gather(
        1, index.expand(rows, columns, *source.shape[2:])
    )
    return found if edit.dose == 1 else found * edit.dose


def fill(slot: EditSlot, name: str, values: Tensor) -> None:
    """Write into the slot's own buffer where the shape allows, so that a captured graph sees it."""
    have: Tensor = getattr(slot, name)
    if have.shape == values.shape and have.dtype == values.dtype:
        have.copy_(values)
    else:
        setattr(slot, name, values.clone())
