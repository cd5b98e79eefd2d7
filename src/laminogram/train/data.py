"""Token ids for training: files of uint16, cut into blocks, shuffled anew every epoch, mixed.

Axes: B rows of a batch, T tokens of context. A row has T + 1 ids: T inputs and, one to the right,
T targets. Rows are cut across document boundaries and never padded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError


class TokenStream:
    """The ids of several little-endian uint16 files, addressed as one stream.

    The files are memory-mapped. On a GPU they are copied there once, so that making a batch costs
    one gather on the device and no transfer but the row starts.

    Raises FileNotFoundError for a missing file, ConfigError for one that holds half an id.
    """

    def __init__(self, paths: Sequence[str | Path], device: str | torch.device = "cpu") -> None:
        self.paths = tuple(Path(path) for path in paths)
        if not self.paths:
            raise ConfigError("a token stream needs at least one file")
        self.device = torch.device(device)
        self._maps = [_map(path) for path in self.paths]
        self.sizes = tuple(len(ids) for ids in self._maps)
        self.bases = tuple(int(base) for base in np.cumsum((0, *self.sizes[:-1])))
        self._resident: Tensor | None = None
        if self.device.type != "cpu":
            # torch has no gather on uint16: the bits travel as int16 and are widened on reading.
            whole = np.concatenate(self._maps).view(np.int16)
            self._resident = torch.from_numpy(whole).to(self.device)

    def __len__(self) -> int:
        return sum(self.sizes)

    def rows(self, starts: np.ndarray, length: int) -> Tensor:
        """The ids `starts[i] ... starts[i] + length - 1` as an int64 tensor (B, length).

        A row must lie within one file; `Blocks` makes only such starts.
        """
        if self._resident is not None:
            first = torch.from_numpy(starts).to(self.device, non_blocking=True)
            index = first[:, None] + torch.arange(length, device=self.device)
            return self._resident[index].long() & 0xFFFF
        ids = np.empty((len(starts), length), dtype=np.int64)
        files = np.searchsorted(self.bases, starts, side="right") - 1
        for row, (file, start) in enumerate(zip(files, starts, strict=True)):
            local = int(start) - self.bases[file]
            ids[row] = self._maps[file][local : local + length]
        return torch.from_numpy(ids)


class Blocks:
    """A seeded order of non-overlapping blocks of `context` + 1 ids over a stream.

    Every epoch shifts the grid of blocks by a new offset and permutes them, so no two epochs cut
    the text at the same places. The rows of a step depend on (seed, step) alone: resuming a run
    needs no state from here.
    """

    def __init__(self, stream: TokenStream, context: int, batch: int, seed: int) -> None:
        # One context is set aside for the shift, and one id for the last target.
        self.counts = tuple(max(0, (size - context) // context) for size in stream.sizes)
        self.per_epoch = sum(self.counts)
        if self.per_epoch < 1:
            raise ConfigError(
                f"a context of {context} needs at least {2 * context} ids in one file; "
                f"the files have {', '.join(map(str, stream.sizes))}"
            )
        self.stream, self.context, self.batch, self.seed = stream, context, batch, seed
        self._orders: dict[int, np.ndarray] = {}

    def starts(self, step: int) -> np.ndarray:
        """Where the rows of `step` begin in the stream: int64 (B,)."""
        rows = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, places = np.divmod(rows, self.per_epoch)
        starts = np.empty(self.batch, dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            starts[chosen] = self._order(int(epoch))[places[chosen]]
        return starts

    def __call__(self, step: int) -> Tensor:
        """The rows of `step`: int64 (B, T + 1) on the stream's device."""
        return self.stream.rows(self.starts(step), self.context + 1)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            shift = int(generator.integers(self.context))
            starts = np.concatenate(
                [
                    base + shift + self.context * np.arange(count, dtype=np.int64)
                    for base, count in zip(self.stream.bases, self.counts, strict=True)
                ]
            )
            self._orders = {epoch - 1: self._orders[epoch - 1]} if epoch - 1 in self._orders else {}
            self._orders[epoch] = generator.permutation(starts)
        return self._orders[epoch]


class Mixture:
    """Several named sources in every batch, each with as many rows as its `Blocks` has.

    Rows keep their places: `places` says which rows of a batch are whose, so the loss of a source
    is a mean over a slice. Like `Blocks` it depends on the step alone.

    Raises ConfigError where there is no source, or the sources differ in context.
    """

    def __init__(self, sources: Mapping[str, Blocks]) -> None:
        if len({blocks.context for blocks in sources.values()}) != 1:
            raise ConfigError(
                "the sources of a mixture need one context, and got "
                + (", ".join(f"{name} {it.context}" for name, it in sources.items()) or "no source")
            )
        self.sources = dict(sources)
        self.batch = 0
        self.places: dict[str, slice] = {}
        for name, blocks in self.sources.items():
            self.places[name] = slice(self.batch, self.batch + blocks.batch)
            self.batch += blocks.batch

    @property
    def shares(self) -> dict[str, float]:
        """Each source's part of all rows."""
        return {name: blocks.batch / self.batch for name, blocks in self.sources.items()}

    def __call__(self, step: int) -> Tensor:
        """The rows of `step`, source after source: int64 (B, T + 1)."""
        return torch.cat([blocks(step) for blocks in self.sources.values()])


def _map(path: Path) -> np.ndarray:
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise ConfigError(
            f"{path} has {size} bytes; a file of uint16 ids has a positive even number"
        )
    return np.memmap(path, dtype="<u2", mode="r")
