"""Measuring: streaming statistics at sites over many texts, storing no activation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from laminogram.errors import SiteError
from laminogram.probe.gathering import Gatherer
from laminogram.probe.manifest import manifest
from laminogram.probe.numbers import numbers
from laminogram.probe.program import Program, check_together
from laminogram.probe.recording import Request, begins_with_bos, documents
from laminogram.probe.statistics import Measurement
from laminogram.probe.statistics.rows import Selection
from laminogram.probe.subject import Subject, Text
from laminogram.stack.batch import Batch
from laminogram.stack.forward import Logits


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
    check_together(view.edits, len(rows), batch_size)
    reads = request.reads(view)
    sink = _Sink(measurement, _gatherer(view, measurement, reads, batch_size))
    program = view.program(reads=reads, sink=sink)
    head: Logits = "all" if "logits" in request.names else "none"
    with (
        torch.no_grad(),
        tqdm(total=len(rows), unit="text", disable=None if progress else True, leave=False) as bar,
    ):
        for chosen in in_batches(rows, batch_size):
            batch = Batch.of([rows[i] for i in chosen], vocab_size=view.config.vocab_size)
            sink.begin(program, batch, [i + first_document for i in chosen])
            view.run(batch, observer=program, logits=head)
            sink.end()
            bar.update(len(chosen))
    sink.finish()
    if view.stack.fast is not None:
        view.stack.fast.forget(program)
    if check:
        program.check()
    measurement.manifest = manifest(
        view.facts(),
        rows,
        bos=begins_with_bos(view, rows),
        first_document=first_document,
        sites=list(request.names),
        effects=program.effects(),
        **sink.facts(),
    )


def _gatherer(
    view: Subject, measurement: Measurement, reads: Mapping[int, Any], rows: int
) -> Gatherer | None:
    """What gathers on a GPU; None on other devices, where layers lie on several, and for a
    measurement that does something of its own with what it observes."""
    if type(measurement).observe is not Measurement.observe:
        return None
    devices = {view.stack.layer(step.layer).device for step in view.plan} | {view.device}
    if view.device.type != "cuda" or len(devices) > 1:
        return None
    return Gatherer(measurement, reads, rows, view.device)


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
    """Hands each tensor to the measurement, with its real tokens, documents and positions; on a GPU
    the gatherer takes what it can before."""

    def __init__(self, measurement: Measurement, gatherer: Gatherer | None) -> None:
        self.measurement, self.gatherer = measurement, gatherer
        self._program: Program | None = None
        self._documents: list[int] = []
        self._selections: dict[Any, Selection] = {}
        # One that does something of its own with what it observes is given everything.
        self._observed = type(measurement).observe is not Measurement.observe

    @property
    def capturable(self) -> bool:
        """Whether a graph can hold what the next batch does."""
        return self.gatherer is not None and self.gatherer.capturable

    def begin(self, program: Program, batch: Batch, documents: list[int]) -> None:
        """The batch that comes, and the numbers of its documents."""
        program.prompt_lengths = None
        self._program, self._documents = program, documents
        self._selections.clear()
        if self.gatherer is not None:
            self.gatherer.begin(batch.lengths, documents)

    def __call__(self, site: str, step: int, x: Tensor) -> None:
        had: frozenset[str] = frozenset()
        if self.gatherer is not None:
            had = self.gatherer.take(site, step, x)
        left = [one for one in self.measurement.templates(site) if one.name not in had]
        if not left:
            return
        run = self._program.run if self._program is not None else None
        assert run is not None
        if site == "pattern":  # (B, H, T, S): its rows are the queries
            x = x.transpose(1, 2)
        if self._observed:
            documents = torch.tensor(self._documents, device=x.device)
            self.measurement.observe(site, step, x, run.mask, documents, run.positions)
            return
        like = (x.shape[:2], x.device)
        if like not in self._selections:
            where = (run.mask, torch.tensor(self._documents, device=x.device), run.positions)
            self._selections[like] = Selection.of(x, *where)
        self.measurement.observe_selected(left, site, step, x, self._selections[like])

    def end(self) -> None:
        """The batch is over."""
        self._selections.clear()
        if self.gatherer is not None:
            self.gatherer.end()

    def finish(self) -> None:
        """Everything was seen."""
        if self.gatherer is not None:
            self.gatherer.finish()

    def facts(self) -> dict[str, Any]:
        """For the manifest: why the plain statistics served at some sites of a GPU."""
        left = self.gatherer.reasons if self.gatherer is not None else {}
        return {"plain_statistics": left} if left else {}


def in_batches(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Document numbers in batches of like length, longest first; in order where one holds all."""
    order = list(range(len(rows)))
    if len(rows) > size:
        order.sort(key=lambda i: (-len(rows[i]), i))
    for start in range(0, len(order), size):
        yield order[start : start + size]
