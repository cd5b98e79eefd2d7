"""Measuring: streaming statistics at sites over many texts, storing no activation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from laminogram.errors import SiteError
from laminogram.probe.manifest import manifest
from laminogram.probe.recording import Request, begins_with_bos, documents, numbers
from laminogram.probe.statistics import Measurement
from laminogram.probe.subject import Subject, Text
from laminogram.stack.batch import Batch


def measure(
    view: Subject,
    texts: Text,
    statistics: str | Sequence[Any],
    names: str | Sequence[str],
    layers: int | Iterable[int] | None = None,
    batch_size: int = 8,
    progress: bool = True,
    first_document: int = 0,
) -> Measurement:
    """Run the texts under the view and let every statistic see every named site.

    statistics: names (`laminogram.probe.statistics.available()`) or statistics with options. A
    document is a text, numbered in the order given from `first_document` on, so that measurements
    of parts of a corpus merge into that of the whole; texts of like length share a batch. No pad is
    ever counted. ConfigError and SiteError name what does not exist.
    """
    kinds = [statistics] if isinstance(statistics, str) else list(statistics)
    request = Request(
        names=(names,) if isinstance(names, str) else tuple(names), layers=numbers("layers", layers)
    )
    if "pattern" in request.names:
        raise SiteError("a pattern has no channels to take statistics of; record it instead")
    rows = documents(view, texts)
    plan = {i: (step.layer, step.part) for i, step in enumerate(view.plan)}
    measurement = Measurement(kinds, plan)
    program = view.program(reads=request.reads(view), sink=_Sink(measurement))
    sink: _Sink = program.sink  # type: ignore[assignment]
    head = "all" if "logits" in request.names else "none"
    with (
        torch.no_grad(),
        tqdm(total=len(rows), unit="text", disable=None if progress else True, leave=False) as bar,
    ):
        for chosen in _batches(rows, batch_size):
            batch = Batch.of([rows[i] for i in chosen], vocab_size=view.config.vocab_size)
            sink.documents = torch.tensor(chosen, device=view.device) + first_document
            program.prompt_lengths = None
            sink.program = program
            view.run(batch, observer=program, logits=head)  # type: ignore[arg-type]
            bar.update(len(chosen))
    program.check()
    measurement.manifest = manifest(
        view.facts(),
        rows,
        bos=begins_with_bos(view, rows),
        first_document=first_document,
        sites=list(request.names),
        effects=program.effects(),
    )
    return measurement


class _Sink:
    """Hands each tensor to the measurement, with its real tokens, documents and positions."""

    def __init__(self, measurement: Measurement) -> None:
        self.measurement = measurement
        self.documents = torch.empty(0, dtype=torch.long)
        self.program: Any = None

    def __call__(self, site: str, step: int, x: Tensor) -> None:
        run = self.program.run
        self.measurement.observe(
            site, step, x, mask=run.mask, documents=self.documents, positions=run.positions
        )


def _batches(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Document numbers in batches of like length, longest first."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    for start in range(0, len(order), size):
        yield order[start : start + size]
