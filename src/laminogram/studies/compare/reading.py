"""What is read of two views while both run over the same tokens, or each over its own.

Axes: B documents of a batch, T tokens, C channels, N kept tokens, M matches, D documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from laminogram.probe.program import Reads
from laminogram.probe.statistics.bootstrap import variant_weights
from laminogram.probe.subject import Subject
from laminogram.stack.batch import Batch
from laminogram.studies.compare.distributions import Sizes, joined, sizes_of
from laminogram.studies.compare.matching import Match
from laminogram.studies.operation_targets import batches
from laminogram.studies.reading import wide

Rows = Sequence[Sequence[int]]
Address = tuple[str, int]
CKA_TOKENS = 512
"""Tokens over which two widths are aligned, spread evenly over the documents: kernels are N x N."""
CKA_REPLICATES, CKA_SHUFFLES = 64, 16


@dataclass(eq=False)
class Differences:
    """Of every match (M,) and document (D,) sums over tokens.

    error: |b - a| / |a| with Euclidean norms of a token's state; distance: 1 - cosine; count: the
    tokens that have both (a state of length 0 has no direction, and no error relative to it). Where
    widths differ these are NaN, and `kept` has the states of some tokens, (N, C) each, with their
    documents.
    """

    matches: Sequence[Match]
    error: np.ndarray
    distance: np.ndarray
    count: np.ndarray
    kept: dict[int, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)
    documents: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def of(cls, matches: Sequence[Match], documents: int) -> Differences:
        """Nothing yet."""
        error, distance, count = (np.zeros((len(matches), documents)) for _ in range(3))
        return cls(matches, error, distance, count)

    def add(
        self,
        number: int,
        chosen: Sequence[int],
        states: tuple[Tensor, Tensor],
        mask: Tensor,
        tokens: Tensor,
    ) -> None:
        """Add a match's states (B, T, C) of some documents; `tokens` (B, T) are those to keep."""
        first, second = (wide(x).flatten(2).double() for x in states)
        if first.shape != second.shape:
            self.error[number], self.distance[number] = np.nan, np.nan
            keep = tokens.to(first.device)
            pair = (first[keep].cpu().numpy(), second[keep].cpu().numpy())
            self.kept.setdefault(number, []).append(pair)
            return
        second = second.to(first.device)
        length, other = first.norm(dim=-1), second.norm(dim=-1)
        there = mask.to(first.device) & (length > 0) & (other > 0)
        error = (second - first).norm(dim=-1) / length
        # Half the squared distance of unit vectors: exactly 0 for equal ones.
        unit = first / length[..., None] - second / other[..., None]
        distance = unit.square().sum(-1) / 2
        for sums, values in ((self.error, error), (self.distance, distance)):
            sums[number, chosen] += values.masked_fill(~there, 0.0).sum(1).cpu().numpy()
        self.count[number, chosen] += there.sum(1).cpu().numpy()


@torch.no_grad()
def differences(
    reference: Subject,
    other: Subject,
    matches: Sequence[Match],
    rows: Rows,
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> Differences:
    """Run both views over the same tokens and compare every match; no state outlives its batch but
    those of `CKA_TOKENS` tokens where widths differ."""
    found = Differences.of(matches, len(rows))
    first = _Reader(reference, _reads(matches, "step"))
    second = _Reader(other, _reads(matches, "step_other"))
    every = max(1, sum(map(len, rows)) // CKA_TOKENS)
    for chosen, batch in _shown(reference, rows, batch_size, progress):
        kept, theirs = first(batch), second(batch)
        tokens = torch.zeros_like(batch.mask)
        tokens[:, ::every] = batch.mask[:, ::every]
        numbers = torch.tensor(chosen)[:, None].expand(tokens.shape)
        found.documents.append(numbers[tokens].numpy())
        for number, match in enumerate(matches):
            pair = kept[match.site, match.step], theirs[match.site, match.step_other]
            found.add(number, chosen, pair, batch.mask, tokens)
    first.done()
    second.done()
    return found


@torch.no_grad()
def sizes(
    view: Subject,
    places: Sequence[Address],
    rows: Rows,
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> dict[Address, Sizes]:
    """The sizes of every place's values, document by document."""
    reads: dict[int, list[str]] = {}
    for site, step in places:
        reads.setdefault(step, []).append(site)
    found: dict[Address, dict[int, dict[str, np.ndarray]]] = {place: {} for place in places}
    reader = _Reader(view, reads)
    for chosen, batch in _shown(view, rows, batch_size, progress):
        kept = reader(batch)
        for place in places:
            lines = sizes_of(kept.pop(place), batch.lengths)
            found[place] |= dict(zip(chosen, lines, strict=True))
    reader.done()
    return {place: joined(lines) for place, lines in found.items()}


def cka_variants(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], documents: Sequence[np.ndarray]
) -> tuple[np.ndarray, float]:
    """Linear CKA of states (N, C) and (N, C') in every variant of the bootstrap over documents,
    and its null: the mean where the tokens of one are shuffled.

    `|Y'X|^2 / (|X'X| |Y'Y|)` with columns centred (Kornblith et al. 2019), through N x N kernels; a
    replicate weighs each token as often as its document was drawn. Of few tokens in many channels
    it is well above 0 where there is nothing: read it beside its null.
    """
    owner = np.concatenate(list(documents))
    names, place = np.unique(owner, return_inverse=True)
    weights = variant_weights(torch.from_numpy(names), CKA_REPLICATES).numpy()[:, place]
    kernels = []
    for side in (0, 1):
        x = np.concatenate([pair[side] for pair in pairs]).astype(np.float64)
        x = x - x.mean(0)
        kernels.append(x @ x.T)
    first, second = kernels
    shuffled = []
    generator = np.random.default_rng(0)
    for _ in range(CKA_SHUFFLES):
        order = generator.permutation(len(second))
        shuffled.append(_cka(first, second[order][:, order], weights[:1])[0])
    return _cka(first, second, weights), float(np.mean(shuffled))


def _cka(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """CKA (P,) of two kernels (N, N) under weights (P, N)."""
    across, mine, theirs = (
        _hsic(a, b, weights) for a, b in ((first, second), (first, first), (second, second))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = across / np.sqrt(mine * theirs)
    return found


def _hsic(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sum (P,) of w_i w_j K_ij L_ij over kernels that are centred under the weights (P, N)."""
    total = weights.sum(1)
    a, b = weights @ first, weights @ second
    whole = ((weights @ (first * second)) * weights).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = (weights * a * b).sum(1) / total
        ends = (weights * a).sum(1) * (weights * b).sum(1) / total**2
    found: np.ndarray = whole - 2 * cross + ends
    return found


def _reads(matches: Sequence[Match], name: str) -> Reads:
    found: dict[int, set[str]] = {}
    for match in matches:
        found.setdefault(getattr(match, name), set()).add(match.site)
    return found


def _shown(
    view: Subject, rows: Rows, size: int, progress: bool
) -> Iterator[tuple[list[int], Batch]]:
    """Batches with their documents' numbers, under a progress bar."""
    listed = [list(row) for row in rows]
    with tqdm(total=len(rows), unit="text", disable=None if progress else True, leave=False) as bar:
        for chosen, batch in batches(view, listed, size):
            yield chosen, batch
            bar.update(len(chosen))


class _Reader:
    """Runs batches under a view and gives what was read of each."""

    def __init__(self, view: Subject, reads: Reads) -> None:
        self._view = view
        self._kept: dict[Address, Tensor] = {}
        self._program = view.program(reads, self._keep)

    def _keep(self, site: str, step: int, x: Tensor) -> None:
        self._kept[site, step] = x.clone()

    def __call__(self, batch: Batch) -> dict[Address, Tensor]:
        self._kept = {}
        self._program.prompt_lengths = None  # every batch is a prompt of its own
        self._view.run(batch, observer=self._program, logits="none")
        return self._kept

    def done(self) -> None:
        """Judge what the view's edits did in all batches together."""
        if self._view.edits:
            self._program.check()
