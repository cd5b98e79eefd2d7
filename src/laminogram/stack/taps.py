"""Taps: where probes read and edits write while a layer runs.

A layer passes every named tensor through `taps(site, x)`. Which names are tapped, and with how many
edits, is the *signature*: fixed before the run, so a compiled layer is specialised by it and a site
that is not named costs nothing. What an edit does lives in tensors, so one compiled layer serves
every edit of the same signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Signature = tuple[tuple[str, int, bool], ...]
"""For each tapped site in sorted order: its name, how many edits act there, whether it is read."""


@dataclass
class EditSlot:
    """One edit at one site of one step, as tensors: `x -> clamp(x * scale + shift, low, high)`
    where selected.

    Zero, set, scale, add, clip and patch are all this one form: with `scale` 0 the old value plays
    no part (so it may be infinite). Every tensor broadcasts against the site's. `where` says which
    entries are selected; it is the product of `rows` (B, T), renewed for each run from the
    positions, and of the fixed masks over heads and channels.

    `selected` and `changed` count entries over the run.
    """

    scale: Tensor
    shift: Tensor
    low: Tensor
    high: Tensor
    fixed: Tensor
    rows: Tensor
    selected: Tensor
    changed: Tensor
    by_token: bool = False  # shift is (B, T, ...), as a patch writes it

    def __call__(self, x: Tensor) -> Tensor:
        """The edited tensor; bits of unselected and unchanged entries are kept."""
        rows = self.rows.reshape(self.rows.shape + (1,) * (x.dim() - 2))
        return self._apply(x, rows & self.fixed, self.shift)

    def heads_first(self, x: Tensor, allowed: Tensor) -> Tensor:
        """The same for a tensor (B, H, T, S), whose rows are its third axis, where `allowed`
        (1|B, 1, T, S): a weight that the mask forbids does not exist and is never written."""
        rows = self.rows[:, None, :, None]
        return self._apply(x, rows & self.fixed & allowed, self.shift)

    def token(self, x: Tensor, t: int) -> Tensor:
        """The same for one token's slice (B, 1, ...) of the site."""
        rows = self.rows[:, t : t + 1]
        shift = self.shift[:, t : t + 1] if self.by_token else self.shift
        return self._apply(x, rows.reshape(rows.shape + (1,) * (x.dim() - 2)) & self.fixed, shift)

    def _apply(self, x: Tensor, where: Tensor, shift: Tensor) -> Tensor:
        scale, shift = self.scale.to(x.dtype), shift.to(x.dtype)
        moved = torch.where(scale == 0, shift, x * scale + shift)
        moved = torch.maximum(torch.minimum(moved, self.high.to(x.dtype)), self.low.to(x.dtype))
        where = where.expand(x.shape)
        change = where & (moved != x)
        self.selected.add_(where.sum())
        self.changed.add_(change.sum())
        if torch.is_grad_enabled() and x.requires_grad:
            written: Tensor = _Write.apply(x, moved, where, change)
            return written
        return torch.where(change, moved, x)


class _Write(torch.autograd.Function):
    """`moved` where an entry changes, else `x`, bit for bit; but the gradient is the edit's
    wherever it is selected, also where it happened to change nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, moved: Tensor, where: Tensor, change: Tensor) -> Tensor:
        ctx.save_for_backward(where)
        return torch.where(change, moved, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (where,) = ctx.saved_tensors
        return grad.masked_fill(where, 0), grad.masked_fill(~where, 0), None, None


class Taps:
    """The taps of one step: calling it with a site's name and tensor reads and edits there.

    What was read lies in `out`, after the edits of that site; it is the live tensor of the graph,
    so whoever keeps it must copy.
    """

    def __init__(
        self, reads: Iterable[str] = (), edits: Mapping[str, tuple[EditSlot, ...]] | None = None
    ) -> None:
        self.reads = frozenset(reads)
        self.edits = {site: tuple(slots) for site, slots in (edits or {}).items() if slots}
        self.names = self.reads | frozenset(self.edits)
        self.out: dict[str, Tensor] = {}

    @property
    def signature(self) -> Signature:
        """What a compiled layer is specialised by."""
        return tuple(
            (site, len(self.edits.get(site, ())), site in self.reads) for site in sorted(self.names)
        )

    def wants(self, *sites: str) -> bool:
        """Whether any of the sites is tapped."""
        return any(site in self.names for site in sites)

    def __call__(self, site: str, x: Tensor, allowed: Tensor | None = None) -> Tensor:
        if site not in self.names:
            return x
        for slot in self.edits.get(site, ()):
            x = slot(x) if allowed is None else slot.heads_first(x, allowed)
        if site in self.reads:
            self.out[site] = x
        return x

    def edit_token(self, site: str, x: Tensor, t: int) -> Tensor:
        """Edit one token's slice (B, 1, ...) of a site that is made token by token."""
        for slot in self.edits.get(site, ()):
            x = slot.token(x, t)
        return x

    def keep(self, site: str, x: Tensor) -> None:
        """File a tensor whose edits were made token by token."""
        if site in self.reads:
            self.out[site] = x


NO_TAPS = Taps()


class Observer(Protocol):
    """Takes what the taps read while a stack runs."""

    def taps(self, step: int) -> Taps:
        """The taps of a step (`sites.STACK_STEP` for the sites of the stack itself)."""
        ...

    def begin(self, run: Run) -> None:
        """Called before each forward with the rows and positions it covers."""
        ...

    def take(self, site: str, step: int, x: Tensor) -> None:
        """One tensor that was read; live, so copy what you keep."""
        ...


@dataclass(frozen=True)
class Run:
    """What one forward covers, for observers: rows are left-aligned.

    positions (B, T): place of each column among its row's real tokens; mask (B, T): real tokens;
    lengths: real tokens of each row in this forward; starts: tokens before them, in the cache.
    """

    positions: Tensor
    mask: Tensor
    lengths: tuple[int, ...]
    starts: tuple[int, ...]
