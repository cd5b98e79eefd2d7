"""What a pack of rows gives under many plans: the logits at the columns that are asked for, alone.

Only those columns meet the head: in a question of eighty tokens that ends in one word it is one.
Axes: N scored columns of a pack in the order of `Pack.rows`, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from laminogram.evaluate.branching import can_branch, sweep_branches
from laminogram.evaluate.loss import CHUNK, needs_all_logits
from laminogram.evaluate.packing import Pack, Sharing
from laminogram.evaluate.token_tree import can_read_trees, sweep_trees
from laminogram.plans.tree import PlanTree
from laminogram.probe.program import Effects
from laminogram.probe.subject import Subject
from laminogram.stack.batch import Batch
from laminogram.stack.forward import Logits

Answer = tuple[float, bool]
"""The log-likelihood of a row's scored tokens in nats, and whether each was the likeliest."""


@dataclass(frozen=True)
class Reading:
    """What one plan makes of a pack: `columns` (N, C) before the head, or (N, V) after it where
    edits act on the logits."""

    view: Subject
    pack: Pack
    columns: Tensor

    @property
    def targets(self) -> Tensor:
        """The tokens (N,) that were to be predicted."""
        ids = [token for row in self.pack.rows for token in row.targets]
        return torch.tensor(ids, device=self.columns.device)

    def logits(self) -> Iterator[tuple[slice, Tensor]]:
        """Logits (n, V), fp32 or wider, of some columns at a time, with which they are."""
        ready = needs_all_logits(self.view)
        stack = self.view.stack
        chunk = max(1, CHUNK // self.view.config.vocab_size)
        for begin in range(0, len(self.columns), chunk):
            part = slice(begin, begin + chunk)
            columns = self.columns[part]
            found = columns if ready else stack.head(columns, stack.tied_table)
            yield part, found if found.dtype == torch.float64 else found.float()

    @torch.no_grad()
    def losses(self) -> tuple[Tensor, Tensor]:
        """Nats of every scored token (N,) in fp64, and whether it was the likeliest (N,)."""
        targets, nats, greedy = self.targets, [], []
        for part, logits in self.logits():
            nats.append(F.cross_entropy(logits, targets[part], reduction="none").double())
            greedy.append(logits.argmax(-1) == targets[part])
        return torch.cat(nats).cpu(), torch.cat(greedy).cpu()

    def answers(self) -> list[Answer]:
        """One answer for each of `pack.rows`."""
        nats, greedy = self.losses()
        sizes = [row.scored for row in self.pack.rows]
        return [
            (-float(lost.sum()), bool(right.all()))
            for lost, right in zip(nats.split(sizes), greedy.split(sizes), strict=True)
        ]


def sharing(view: Subject) -> Sharing:
    """How much the rows of a document can share here."""
    if can_read_trees(view):
        return "trees"
    return "trunks" if can_branch(view) else "nothing"


@torch.no_grad()
def read(
    view: Subject, tree: PlanTree, pack: Pack, effects: Effects | None = None
) -> Iterator[tuple[int, Reading]]:
    """Yield (number of the plan, its reading of the pack), in the order of the tree.

    The pack must be one that this view can read (`sharing`). effects, errors: as in `View.sweep`.
    """
    rows, places = _columns(pack)
    if pack.trunks or view.edits:
        for number, out in _whole(view, tree, pack, effects):
            yield number, Reading(view, pack, out[rows.to(out.device), places.to(out.device)])
        return
    columns, order = _distinct(rows, places)
    if pack.trees:
        outs = sweep_trees(view, tree, pack.grown, columns)
    else:
        batch = Batch.of(pack.inputs, vocab_size=view.config.vocab_size)
        outs = view.sweep(tree, batch, logits="none", columns=columns)
    for number, out in outs:
        yield number, Reading(view, pack, out[rows.to(out.device), order.to(out.device)])


def _whole(
    view: Subject, plans: PlanTree, pack: Pack, effects: Effects | None
) -> Iterable[tuple[int, Tensor]]:
    """Every column of the batch (B, T, C), or of its branches: for edits, which may name any, and
    for trunks."""
    size = view.config.vocab_size
    if not pack.trunks:
        batch = Batch.of(pack.inputs, vocab_size=size)
        wanted: Logits = "all" if needs_all_logits(view) else "none"
        return view.sweep(plans, batch, logits=wanted, effects=effects)
    firsts = pack.inputs[:: pack.copies]
    trunks = [one[:trunk] for one, trunk in zip(firsts, pack.trunks, strict=True)]
    tails = [one[pack.trunks[i // pack.copies] :] for i, one in enumerate(pack.inputs)]
    return sweep_branches(
        view, plans, Batch.of(trunks, vocab_size=size), Batch.of(tails, vocab_size=size)
    )


def _columns(pack: Pack) -> tuple[Tensor, Tensor]:
    """The row and the column in the batch of every scored token's prediction, (N,) each."""
    rows: list[int] = []
    places: list[int] = []
    for (number, columns), asked in zip(_placed(pack), pack.asked, strict=True):
        for row in asked:
            places += columns[len(columns) - row.scored :]
            rows += [number] * row.scored
    return torch.tensor(rows), torch.tensor(places)


def _distinct(rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """The different columns of each row (B, W), a row with fewer repeating its first, and of every
    prediction where among them its own is (N,)."""
    known: list[dict[int, int]] = [{} for _ in range(int(rows.max()) + 1)]
    order = [
        known[row].setdefault(place, len(known[row]))
        for row, place in zip(rows.tolist(), places.tolist(), strict=True)
    ]
    width = max(map(len, known))
    columns = [[*own, *[next(iter(own))] * (width - len(own))] for own in known]
    return torch.tensor(columns), torch.tensor(order)


def _placed(pack: Pack) -> Iterator[tuple[int, Sequence[int]]]:
    """Of every input its row in the batch and the columns of its tokens there."""
    if pack.trees:
        for number, tree in enumerate(pack.grown):
            yield from ((number, columns) for columns in tree.columns)
        return
    for number, tokens in enumerate(pack.inputs):
        read_before = pack.trunks[number // pack.copies] if pack.trunks else 0
        yield number, range(-read_before, len(tokens) - read_before)
