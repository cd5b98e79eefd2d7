"""Where the values come from that an edit writes token by token: another run, means, other tokens.

Axes: R rows (those of the run, or one for all), P columns, B and T of the gram.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from laminogram.errors import EditError
from laminogram.probe.gram import Gram
from laminogram.probe.statistics import Measurement
from laminogram.probe.statistics.bootstrap import ALL

_DRAWS = 4096
"""Positions after which the drawn tokens come again."""

_MEANS = ("moments", "channels")  # the statistics that know a mean of each channel


@dataclass(frozen=True, eq=False)
class Source:
    """Values for each step, (R, P, ...), and the column that each position of a run reads.

    lengths: columns of each row; a token beyond them is left alone. None: it reads the last one.
    order (Q,): the column that a position reads, those after the first in turn; None: its own.
    """

    values: dict[int, Tensor]
    lengths: tuple[int, ...] | None = None
    order: Tensor | None = None

    def columns(self, positions: Tensor, width: int) -> Tensor:
        """The column for each of the positions (B, T), of `width` that there are."""
        if self.order is None:
            return positions.clamp(max=width - 1)
        later = 1 + (positions - 1) % (len(self.order) - 1)
        return self.order.to(positions.device)[torch.where(positions == 0, 0, later)]

    def tensors(self) -> list[Tensor]:
        """Everything that tells one source from another."""
        found = [torch.tensor(self.lengths or ())]
        if self.order is not None:
            found.append(self.order)
        for step, values in sorted(self.values.items()):
            found += [torch.tensor(step), values]
        return found


def of_run(site: str, gram: Gram) -> Source:
    """What another run had at the same position. EditError for a gram without the site, or without
    the beginnings of its rows."""
    lengths = tuple(int(n) for n in gram.mask.sum(1))
    return Source(_steps(site, gram), lengths)


def of_means(site: str, of: Source | Gram | Iterable[Gram] | Measurement, first: int) -> Source:
    """Means over tokens: of each of the first positions by itself, and of all others together.

    A measurement has one mean for all; a source stays what it is. Sums are fp64. EditError where a
    bucket has no token, or nothing holds the site.
    """
    if first < 0:
        raise EditError(f"first is {first}; the positions with a mean of their own are 0 or more")
    if isinstance(of, Source):
        return of
    if isinstance(of, Measurement):
        return Source(_measured(site, of))
    sums: dict[int, Tensor] = {}
    dtypes: dict[int, torch.dtype] = {}
    counts: dict[int, Tensor] = {}  # a gram may hold some of the steps alone
    for gram in [of] if isinstance(of, Gram) else of:
        lengths = torch.from_numpy(gram.mask.sum(1))
        buckets = torch.arange(gram.mask.shape[1]).clamp(max=first)
        real = torch.arange(gram.mask.shape[1]) < lengths[:, None]
        tokens = torch.bincount(buckets.expand_as(real)[real], minlength=first + 1)
        for step, x in _steps(site, gram).items():
            total = torch.zeros(first + 1, *x.shape[2:], dtype=torch.float64)
            total.index_add_(0, buckets.expand_as(real)[real], x.cpu().double()[real])
            sums[step] = sums.get(step, 0) + total
            counts[step] = counts.get(step, 0) + tokens
            dtypes[step] = torch.promote_types(x.dtype, torch.float32)
    found = [(one == 0).nonzero().flatten().tolist() for one in counts.values()]
    empty = max(found, key=len, default=list(range(first + 1)))
    if empty:
        names = [f"{n}" if n < first else f"{n} and later" for n in empty]
        raise EditError(f"no token to take a mean of at the positions {', '.join(names)}")
    return Source(
        {
            step: (total / counts[step].view(-1, *[1] * (total.dim() - 1)))[None].to(dtypes[step])
            for step, total in sums.items()
        }
    )


def of_other_tokens(site: str, gram: Gram, seed: int) -> Source:
    """What other tokens had: a first token's for a first token, one drawn from the others for each
    later position. The draw hangs on seed and position alone, so a row does not depend on its
    neighbours, nor on a cache."""
    real = torch.from_numpy(gram.mask.sum(1))
    width = gram.mask.shape[1]
    later = (torch.arange(width) < real[:, None]).clone()
    later[:, 0] = False
    rows, columns = later.nonzero(as_tuple=True)
    firsts = len(gram.mask)
    values = {
        step: torch.cat([x[:, 0], x[rows, columns]])[None] for step, x in _steps(site, gram).items()
    }
    generator = torch.Generator().manual_seed(seed)
    begin = torch.randint(firsts, (1,), generator=generator)
    if not len(rows):
        raise EditError("the gram to resample from has no token but the first of each row")
    drawn = firsts + torch.randint(len(rows), (_DRAWS,), generator=generator)
    return Source(values, order=torch.cat([begin, drawn]))


def _steps(site: str, gram: Gram) -> dict[int, Tensor]:
    """The site's values, each row's real tokens first."""
    if gram.manifest.get("phase") == "new":
        raise EditError("a gram of new tokens alone does not say where in their rows they stand")
    found = {step: _aligned(gram, gram.tensor(site, step)) for name, step in gram if name == site}
    if not found:
        raise EditError(
            f"the gram to take values from holds no {site!r}; it holds {', '.join(gram.sites)}"
        )
    return found


def _aligned(gram: Gram, x: Tensor) -> Tensor:
    """`x` (B, T, ...) with each row's real tokens first, wherever the user padded."""
    order = torch.from_numpy((~gram.mask).argsort(axis=1, kind="stable")).to(x.device)
    index = order.reshape(*order.shape, *[1] * (x.dim() - 2))
    return x.gather(1, index.expand(x.shape))


def _measured(site: str, measurement: Measurement) -> dict[int, Tensor]:
    """The mean (1, 1, C) of each step, the site's axes after the tokens as one."""
    for name in _MEANS:
        steps = [step for kind, at, step in measurement if (kind, at) == (name, site)]
        if steps:
            break
    else:
        raise EditError(
            f"the measurement has no mean of {site!r}: measure {' or '.join(_MEANS)} there"
        )
    found = {}
    for step in steps:
        mean = measurement[name, site, step].result()["mean"]
        mean = mean[ALL] if name == "channels" else mean
        found[step] = torch.from_numpy(mean).float().view(1, 1, -1)
    return found
