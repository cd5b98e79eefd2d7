"""Taps: where probes read and edits write while a layer runs.

A layer passes every named tensor through `taps(site, x)`. Which names are tapped, and with which
kinds of edits, is the *signature*: fixed before the run, so a compiled layer is specialised by it
and a site that is not named costs nothing. What an edit does lives in tensors, so one compiled
layer serves every edit of the same signature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from laminogram.errors import EditError

_ALL = slice(None)

Signature = tuple[tuple[str, tuple[str, ...], bool], ...]
"""For each tapped site in sorted order: its name, what kinds of edits act there, whether it is
read."""


@dataclass(kw_only=True)
class EditSlot:
    """One edit at one site of one step, as tensors: new values where it selects.

    `where` says which entries are selected; it is the product of `rows` (B, T), renewed for each
    run from the positions, and of the `fixed` masks over heads and channels, which broadcast
    against the site's. `selected` and `changed` count entries over the run. A subclass says what
    the new values are, and of which `kind` it is: a compiled layer is specialised by the kinds.
    """

    fixed: Tensor
    rows: Tensor
    selected: Tensor
    changed: Tensor

    @property
    def kind(self) -> str:
        """What a signature calls the edit."""
        raise NotImplementedError

    def moved(self, x: Tensor, columns: slice = _ALL) -> Tensor:
        """The new values of these columns of the run, as if everything were selected."""
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """The edited tensor; bits of unselected and unchanged entries are kept."""
        rows = self.rows.reshape(self.rows.shape + (1,) * (x.dim() - 2))
        return self._write(x, rows & self.fixed, self.moved(x))

    def heads_first(self, x: Tensor, allowed: Tensor) -> Tensor:
        """The same for a tensor (B, H, T, S), whose rows are its third axis, where `allowed`
        (1|B, 1, T, S): a weight that the mask forbids does not exist and is never written."""
        rows = self.rows[:, None, :, None]
        return self._write(x, rows & self.fixed & allowed, self.moved(x))

    def token(self, x: Tensor, t: int) -> Tensor:
        """The same for one token's slice (B, 1, ...) of the site."""
        here = slice(t, t + 1)
        rows = self.rows[:, here]
        rows = rows.reshape(rows.shape + (1,) * (x.dim() - 2))
        return self._write(x, rows & self.fixed, self.moved(x, here))

    def _write(self, x: Tensor, where: Tensor, moved: Tensor) -> Tensor:
        where = where.expand(x.shape)
        change = where & (moved != x)
        self.selected.add_(where.sum())
        self.changed.add_(change.sum())
        if torch.is_grad_enabled() and (x.requires_grad or moved.requires_grad):
            written: Tensor = _Write.apply(x, moved, where, change)
            return written
        return torch.where(change, moved, x)


@dataclass(kw_only=True)
class EntrySlot(EditSlot):
    """`x -> clamp(x * scale + shift, low, high)`, each entry by itself.

    Zero, set, scale, add, clip, patch, mean and resample are all this one form: with `scale` 0 the
    old value plays no part (so it may be infinite). Every tensor broadcasts against the site's.
    """

    scale: Tensor
    shift: Tensor
    low: Tensor
    high: Tensor
    by_token: bool = False  # shift is (B, T, ...), as a patch writes it

    @property
    def kind(self) -> str:
        return "entries"

    def moved(self, x: Tensor, columns: slice = _ALL) -> Tensor:
        shift = self.shift[:, columns] if self.by_token else self.shift
        scale, shift = self.scale.to(x.dtype), shift.to(x.dtype)
        moved = torch.where(scale == 0, shift, x * scale + shift)
        return torch.maximum(torch.minimum(moved, self.high.to(x.dtype)), self.low.to(x.dtype))


@dataclass(kw_only=True)
class RowSlot(EditSlot):
    """`x -> x + dose * (function(x, *values) - x)`: what needs more than the entry itself.

    The function is fixed before the run and named in the signature; `values` and `dose` are
    tensors, so that one compiled layer serves all of them. It must treat each token by itself.
    """

    function: Callable[..., Tensor]
    values: tuple[Tensor, ...]
    dose: Tensor

    @property
    def kind(self) -> str:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return f"rows by {name}"

    def moved(self, x: Tensor, columns: slice = _ALL) -> Tensor:
        moved = self.function(x, *self.values)
        if moved.shape != x.shape:
            raise EditError(
                f"an edit made {tuple(moved.shape)} of a tensor {tuple(x.shape)}: its shape must "
                "stay"
            )
        moved, dose = moved.to(x.dtype), self.dose.to(x.dtype)
        between = torch.where(dose == 0, x, x + dose * (moved - x))
        return torch.where(dose == 1, moved, between)


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
            (site, tuple(slot.kind for slot in self.edits.get(site, ())), site in self.reads)
            for site in sorted(self.names)
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

    def entering(self, x: Tensor) -> Tensor:
        """The site `resid_pre`. Where gradients are kept it is a tensor of its own: the same stream
        may enter other branches, or feed a side stream, and what it does there is not this step's.
        """
        if torch.is_grad_enabled() and "resid_pre" in self.reads:
            x = x.view_as(x)
        return self("resid_pre", x)

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
