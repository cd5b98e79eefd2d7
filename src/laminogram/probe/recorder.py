"""The recorder: keeps copies of what a program reads, one forward after another.

A copy is taken as each step ends, so that memory holds the wanted tensors and one layer's work. On
a GPU the copies to the host run beside the computation, one recorder's after the other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.program import Program

RecordPhase = Literal["prompt", "new", "all"]
Key = tuple[str, int]
"""A site and a step."""


class Recorder:
    """Collects tensors for a gram: give `sink` to a program, and the program to `program`.

    A forward may repeat tokens that an earlier one covered (generation without a cache): only the
    columns that are new are kept.
    """

    def __init__(self, device: torch.device, phase: RecordPhase = "all") -> None:
        self.device, self.phase = device, phase
        self.program: Program | None = None
        self.chunks: dict[Key, list[Tensor]] = {}
        self._copy = _Copier(device)

    def sink(self, site: str, step: int, x: Tensor) -> None:
        """Take one tensor (B, T, ...) or pattern (B, H, T, S)."""
        program = self.bound()
        first = program.forwards == 1
        if (self.phase == "new" and first) or (self.phase == "prompt" and not first):
            return
        axis = 2 if site == "pattern" else 1
        if not first and program.run is not None and x.shape[axis] > 1:
            x = _last_column(x, axis, program.run.lengths)
        self.chunks.setdefault((site, step), []).append(self._copy(x.detach()))

    def bound(self) -> Program:
        """The program; ConfigError where none was given."""
        if self.program is None:
            raise ConfigError("a recorder takes tensors from its program's runs only")
        return self.program

    def tensors(self) -> dict[Key, Tensor]:
        """Everything kept, handed over: the prompt, then the generated tokens, left-aligned.

        A recorder and its program know each other, so what stayed here would stay in memory until
        Python looks for circles.
        """
        self._copy.wait()
        prompts = self.bound().prompt_lengths or ()
        handed, self.chunks = self.chunks, {}
        return {
            key: _joined(chunks, prompts, 2 if key[0] == "pattern" else 1, self.phase)
            for key, chunks in handed.items()
        }


def _last_column(x: Tensor, axis: int, lengths: Sequence[int]) -> Tensor:
    index = torch.tensor([length - 1 for length in lengths], device=x.device)
    shape = [1] * x.dim()
    shape[0] = len(lengths)
    target = list(x.shape)
    target[axis] = 1
    return x.gather(axis, index.view(shape).expand(target))


def _joined(chunks: list[Tensor], prompts: Sequence[int], axis: int, phase: RecordPhase) -> Tensor:
    """Chunks of columns as one tensor: later chunks follow each row's own last column."""
    if len(chunks) == 1:
        return chunks[0]
    if axis == 2:  # a pattern's keys grow with the text
        keys = max(chunk.shape[3] for chunk in chunks)
        chunks = [F.pad(c, (0, keys - c.shape[3])) for c in chunks]
    starts = list(prompts) if phase == "all" else [0] * chunks[0].shape[0]
    if len(set(starts)) == 1 and (phase != "all" or chunks[0].shape[axis] == starts[0]):
        return torch.cat(chunks, axis)
    later = len(chunks) - 1
    head = chunks[0]
    shape = list(head.shape)
    shape[axis] = max(head.shape[axis], max(starts) + later)
    out = head.new_zeros(shape)
    out.narrow(axis, 0, head.shape[axis]).copy_(head)
    for row, start in enumerate(starts):
        for i, chunk in enumerate(chunks[1:]):
            out[row].narrow(axis - 1, start + i, 1).copy_(chunk[row])
    return out


class _Copier:
    """Copies tensors to a device; from a GPU to the host through pinned memory, asynchronously."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._links: dict[torch.device, _Link] = {}

    def __call__(self, x: Tensor) -> Tensor:
        if not x.is_cuda or self.device.type != "cpu":
            return x.to(self.device, copy=True)
        if x.device not in self._links:
            self._links[x.device] = _Link(x.device)
        return self._links[x.device].copy(x)

    def wait(self) -> None:
        """Return when every copy has arrived."""
        for link in self._links.values():
            link.arrived.synchronize()


class _Link:
    """The way from one GPU to the host for one recorder: `arrived` is its last copy.

    Its copies wait for those of the recorder before: side by side they would share the link, and
    the first batch arrive no sooner than the second. Its stream is its own all the same, since
    pinned memory serves again only when the stream that filled it has nothing left to do.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._made, self.arrived = torch.cuda.Event(), torch.cuda.Event()
        if device in _latest:
            _latest[device].wait(self._stream)
        _latest[device] = self.arrived

    def copy(self, x: Tensor) -> Tensor:
        """A pinned copy of what the current stream makes, on its way."""
        host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        self._made.record(torch.cuda.current_stream(x.device))
        self._made.wait(self._stream)
        with torch.cuda.stream(self._stream):
            host.copy_(x, non_blocking=True)
        x.record_stream(self._stream)
        self.arrived.record(self._stream)
        return host


_latest: dict[torch.device, torch.cuda.Event] = {}
"""For each GPU the last copy of the recorder that came last."""
