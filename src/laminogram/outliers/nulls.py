"""Nulls: the same statistics of tensors in which there is nothing to find.

- `gaussian`: every value from one normal distribution with the place's mean and variance. What is
  left of a definition's number is the work of width and of the amount of text.
- `channels`: each channel normal with its own mean and variance. Consistently large channels stay,
  spikes of single tokens go.
- `permutation`: the real values, each token's channels in an order of its own. Spikes stay,
  channels that are large in every token go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.statistics import Measurement
from laminogram.probe.statistics.channels import Channels
from laminogram.probe.statistics.documents import Documents

Null = Literal["gaussian", "channels", "permutation"]
NULLS: tuple[str, ...] = get_args(Null)

MOST_TOKENS = 4096
"""Tokens of Gaussians that are drawn for a place: documents are taken until these are reached."""


def check(null: str | None) -> None:
    """ConfigError for a null that does not exist."""
    if null is not None and null not in NULLS:
        raise ConfigError(f"there is no null {null!r}; there are: {', '.join(NULLS)}")


class WithPermutation(Measurement):
    """A measurement that shows `permuted` every tensor too, channels shuffled within each token.

    Orders come from a seeded generator, in the sequence of tensors: the same run gives the same
    numbers. Patterns are left out.
    """

    def __init__(self, statistics: Any, step_layers: Any, seed: int = 0) -> None:
        super().__init__(statistics, step_layers)
        self.permuted = Measurement(statistics, step_layers)
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def observe(
        self,
        site: str,
        step: int,
        x: Tensor,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> None:
        """Take one batch into every statistic, as it is and permuted."""
        super().observe(site, step, x, mask, documents, positions)
        if site == "pattern":
            return
        flat = x.flatten(2)
        if x.device not in self._generators:
            self._generators[x.device] = torch.Generator(x.device).manual_seed(self._seed)
        drawn = torch.rand(flat.shape, generator=self._generators[x.device], device=x.device)
        shuffled = flat.gather(2, drawn.argsort(2))
        self.permuted.observe(site, step, shuffled, mask, documents, positions)


def gaussian(measurement: Measurement, kind: str, seed: int = 0) -> Measurement:
    """Gaussians with the moments of a measurement, seen by the statistics that it holds.

    kind: `gaussian` or `channels`. Needs the statistics `documents` and `channels` where it is to
    draw; places without them are left out, and so are patterns.
    """
    drawn = Measurement((), measurement.step_layers)
    generator = torch.Generator().manual_seed(seed)
    for site, step in sorted({(site, step) for _, site, step in measurement}):
        names = [name for name, at, number in measurement if (at, number) == (site, step)]
        if not {Documents.name, Channels.name} <= set(names):
            continue
        lines = measurement[Documents.name, site, step].result()
        moments = measurement[Channels.name, site, step].result()
        templates = [measurement[name, site, step].fresh() for name in names]
        part = Measurement(templates, measurement.step_layers)
        for document, values in _texts(lines, moments, kind, generator):
            part.observe(site, step, values, documents=torch.tensor([document]))
        drawn = drawn.merge(part)
    return drawn


def _texts(
    lines: Mapping[str, np.ndarray],
    moments: Mapping[str, np.ndarray],
    kind: str,
    generator: torch.Generator,
) -> Iterator[tuple[int, Tensor]]:
    """Documents with their ids, (1, T, C) each, as long as the real ones."""
    mean = torch.from_numpy(np.nan_to_num(moments["mean"][0])).float()
    variance = torch.from_numpy(np.nan_to_num(moments["variance"][0])).float()
    if kind == "gaussian":
        variance = (variance.mean() + mean.var(correction=0)).expand_as(variance)
        mean = mean.mean().expand_as(mean)
    seen = 0
    for document, tokens in zip(lines["document"].tolist(), lines["tokens"].tolist()):
        if seen >= MOST_TOKENS:
            return
        seen += tokens
        noise = torch.randn(1, tokens, len(mean), generator=generator)
        yield document, noise * variance.sqrt() + mean
