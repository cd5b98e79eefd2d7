"""How much each layer turns the stream: Block Influence, and angular distance of the last token.

Axes: R states (the input of every layer, and the output of the last), T tokens, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from laminogram.evaluate.text import Estimate
from laminogram.probe.program import Effects, check_effects
from laminogram.probe.subject import Subject
from laminogram.studies.painters.measures import Resampled, estimate
from laminogram.studies.painters.pieces import Pieces
from laminogram.studies.reading import walk

SOURCES = {
    "block_influence": "Men et al. 2024, ShortGPT (arXiv 2403.03853): 1 - mean over tokens of the "
    "cosine between a layer's input and its output",
    "angular": "Gromov et al. 2024, The Unreasonable Ineffectiveness of the Deeper Layers (arXiv "
    "2403.17887): arccos(cosine) / pi of the last token between the inputs of layers l and l + n, "
    "mean over texts",
}


@dataclass(frozen=True, eq=False)
class Influence:
    """Of each layer of the full stack.

    block_influence: with its interval over units; angular: (R, R), between the states i and j;
    texts: how many were read.
    """

    block_influence: tuple[Estimate, ...]
    angular: np.ndarray
    texts: int

    @property
    def by_layer(self) -> np.ndarray:
        """The angular distance between a layer's input and its output (R - 1,)."""
        return np.diagonal(self.angular, 1)


def influence(view: Subject, pieces: Pieces, *, progress: bool = True) -> Influence:
    """Read the pieces under the full stack, one at a time; no state is kept."""
    view = replace(view, plan=view.stack.full_plan())
    layers = len(view.plan)
    sums = np.zeros((layers, pieces.units, 2))
    angular = np.zeros((layers + 1, layers + 1))
    effects: Effects = []
    pairs = list(zip(pieces.rows, pieces.owners, strict=True))
    for row, owner in tqdm(pairs, unit="text", disable=None if progress else True, leave=False):
        cosines, last = _read(view, row, effects)
        sums[:, owner, 0] += len(row)
        sums[:, owner, 1] += cosines
        angular += angles(last)
    check_effects(effects)
    drawn = 1 - Resampled(sums).means(1)
    return Influence(tuple(map(estimate, drawn)), angular / len(pairs), len(pairs))


def _read(view: Subject, row: Sequence[int], effects: Effects) -> tuple[np.ndarray, Tensor]:
    """Of one text: each layer's sum over tokens of the cosine between input and output (R - 1,),
    and the last token's states (R, C)."""
    cosines: list[float] = []
    last: list[Tensor] = []
    before: list[Tensor] = []

    def keep(site: str, step: int, x: Tensor) -> None:
        state = x[0].detach().double().cpu()
        last.append(state[-1])
        if before:
            cosines.append(float(torch.cosine_similarity(before.pop(), state).sum()))
        before.append(state)

    steps = range(len(view.plan))
    reads = dict.fromkeys(steps, ("resid_pre",))
    end, _ = walk(view, view.tokens([list(row)]), reads, keep, effects=effects)
    keep("resid_post", len(view.plan), end)
    return np.array(cosines), torch.stack(last)


def angles(states: Tensor) -> np.ndarray:
    """The angular distance (R, R), between 0 and 1, of states (R, C)."""
    unit = torch.nn.functional.normalize(states.double(), dim=-1)
    found: np.ndarray = (unit @ unit.T).clamp(-1, 1).arccos().numpy() / math.pi
    np.fill_diagonal(found, 0)  # a state is at no angle to itself, whatever rounding says
    return found
