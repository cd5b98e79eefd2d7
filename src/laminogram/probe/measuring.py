"""Measuring: streaming statistics at sites over many texts, storing no activation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    statistics: str | Sequence[Any] | Mapping[str, Sequence[Any]],
    names: str | Sequence[str] = (),
    layers: int | Iterable[int] | None = None,
    batch_size: int = 8,
    progress: bool = True,
    first_document: int = 0,
) -> Measurement:
    """Run the texts under the view and let every statistic see every named site.

    statistics: names (`laminogram.probe.statistics.available()`) or statistics with options; or a
    mapping from sites to such, where sites want different ones (then `names` has no use). A
    document is a text, numbered in the order given from `first_document` on, so that measurements
    of parts of a corpus merge into that of the whole; texts of like length share a batch. No pad is
    ever counted. ConfigError and SiteError name what does not exist.
    """
    if isinstance(statistics, Mapping):
        names = tuple(statistics)
    plan = {i: (step.layer, step.part) for i, step in enumerate(view.plan)}
    measurement = Measurement([statistics] if isinstance(statistics, str) else statistics, plan)
    request = Request(
        names=(names,) if isinstance(names, str) else tuple(names), layers=numbers("layers", layers)
    )
    stream(view, texts, measurement, request, batch_size, progress, first_document)
    return measurement


def stream(
    view: Subject,
    texts: Text,
    measurement: Measurement,
    request: Request,
    batch_size: int = 8,
    progress: bool = True,
    first_document: int = 0,
    check: bool = True,
) -> None:
    """Run the texts under the view and let a measurement observe what the request names; it gets
    the manifest of this run. See `measure`.

    check: an edit that selected nothing is an error; not where these are parts of texts, which may
    lack the edit's positions.
    """
    _check_pattern(measurement, request.names)
    rows = documents(view, texts)
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
    if check:
        program.check()
    measurement.manifest = manifest(
        view.facts(),
        rows,
        bos=begins_with_bos(view, rows),
        first_document=first_document,
        sites=list(request.names),
        effects=program.effects(),
    )


def _check_pattern(measurement: Measurement, names: Sequence[str]) -> None:
    for name in names:
        for statistic in measurement.templates(name):
            if statistic.of_pattern and name != "pattern":
                raise SiteError(f"the statistic {statistic.name!r} reads the site 'pattern' alone")
            if name == "pattern" and not statistic.of_pattern:
                raise SiteError(
                    f"a pattern has no channels for {statistic.name!r} to read; record it instead"
                )


class _Sink:
    """Hands each tensor to the measurement, with its real tokens, documents and positions."""

    def __init__(self, measurement: Measurement) -> None:
        self.measurement = measurement
        self.documents = torch.empty(0, dtype=torch.long)
        self.program: Any = None

    def __call__(self, site: str, step: int, x: Tensor) -> None:
        run = self.program.run
        if site == "pattern":  # (B, H, T, S): its rows are the queries
            x = x.transpose(1, 2)
        self.measurement.observe(
            site, step, x, mask=run.mask, documents=self.documents, positions=run.positions
        )


def _batches(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Document numbers in batches of like length, longest first."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    for start in range(0, len(order), size):
        yield order[start : start + size]
