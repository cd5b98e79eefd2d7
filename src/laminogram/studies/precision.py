"""What a precision changes: predictions, free texts, and the sizes of activations.

Every precision is compared with a reference on the same tokens (teacher forced), in texts that both
continue with the same draws, and in the histograms of |x| at sites.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from laminogram.errors import ConfigError
from laminogram.evaluate.divergence import Divergence, Estimate, divergence, mean_of_documents
from laminogram.evaluate.loss import check_predicts
from laminogram.infer.generate import generate
from laminogram.probe.manifest import manifest
from laminogram.probe.measuring import measure
from laminogram.probe.numbers import numbers
from laminogram.probe.recording import documents
from laminogram.probe.statistics.bootstrap import HALVES, variant_weights
from laminogram.probe.subject import PRECISIONS, Subject, Text
from laminogram.stack.quantise import Scheme
from laminogram.studies.reading import Tables

Rows = list[list[int]]
Place = tuple[str, int]
Texts = dict[tuple[int, int], tuple[int, ...]]
"""The new tokens of every (document, seed)."""
Counts = dict[Place, np.ndarray]
"""Of each (site, step) how many values lie in each bin of |x|: zero, below, bins, above, not
finite."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """The predictions of one precision against those of the reference, on one input."""

    precision: str
    input: str
    divergence: Divergence


@dataclass(frozen=True)
class FreeText:
    """One text that both precisions continued from the same prompt with the same draws.

    same: how many tokens are equal before the first that differs; it is the length of both where
    none does.
    """

    precision: str
    input: str
    document: int
    seed: int
    same: int
    length_reference: int
    length: int

    @property
    def equal(self) -> bool:
        """Whether the whole texts are equal."""
        return self.same == self.length_reference == self.length


@dataclass(frozen=True)
class Shift:
    """How far the histogram of |x| moved at one place: Jensen-Shannon divergences, in nats.

    jsd: of the reference and the precision, over all documents, the same tokens. null: of two
    halves of the documents, both in the reference: what there is to find where no precision
    changed. crossed: of one half in the reference and the other in the precision, which is larger
    than `null` by what the precision adds. Halves hold fewer values, and of other tokens, so `jsd`
    may be far below `null`. NaN where a half is empty.
    """

    precision: str
    input: str
    site: str
    step: int
    layer: int
    jsd: float
    null: float
    crossed: float


@dataclass(frozen=True, eq=False)
class Precision:
    """The study as data. `facts` says of each precision what its view's manifest says."""

    model: str
    reference: str
    outputs: tuple[Outputs, ...]
    texts: tuple[FreeText, ...]
    shifts: tuple[Shift, ...]
    facts: dict[str, dict[str, Any]]
    manifest: dict[str, Any] = field(default_factory=dict)

    def tables(self) -> Tables:
        """`precision-outputs`, `precision-texts` and `precision-texts-summary`,
        `precision-histograms`, `precision-formats`."""
        return {
            "precision-outputs": _columns(map(_output_row, self.outputs)),
            "precision-texts": _columns(asdict(one) | {"equal": one.equal} for one in self.texts),
            "precision-texts-summary": _columns(self._text_rows()),
            "precision-histograms": _columns(map(asdict, self.shifts)),
            "precision-formats": _columns(
                {"precision": name} | _format_row(facts) for name, facts in self.facts.items()
            ),
        }

    def agreement_length(self, precision: str, of: str) -> Estimate:
        """Tokens before the first difference, mean over texts; the interval resamples documents."""
        return self._mean(precision, of, "same")

    def _mean(self, precision: str, of: str, name: str) -> Estimate:
        chosen = [one for one in self.texts if (one.precision, one.input) == (precision, of)]
        if not chosen:
            raise ConfigError(f"no text of {of!r} was continued in {precision!r}")
        sums = torch.zeros(1 + max(one.document for one in chosen), dtype=torch.float64)
        counts = torch.zeros_like(sums)
        for one in chosen:
            sums[one.document] += float(getattr(one, name))
            counts[one.document] += 1
        return mean_of_documents(sums, counts)

    def _text_rows(self) -> Iterator[dict[str, Any]]:
        for precision, of in dict.fromkeys((one.precision, one.input) for one in self.texts):
            row: dict[str, Any] = {"precision": precision, "input": of}
            for name in ("same", "equal", "length_reference", "length"):
                row |= _spread(name, self._mean(precision, of, name))
            yield row


@torch.no_grad()
def precision(
    view: Subject,
    inputs: Mapping[str, Text] | Text,
    precisions: Sequence[str],
    *,
    reference: str = "fp32",
    sites: str | Sequence[str] = ("ffn_out", "resid_post"),
    layers: int | Iterable[int] | None = None,
    seeds: Iterable[int] = range(5),
    prompt_tokens: int = 16,
    new_tokens: int = 32,
    temperature: float = 1.0,
    batch_size: int = 8,
    progress: bool = True,
) -> Precision:
    """Compare precisions with a reference on one input or several by name.

    A text of an input is a document, the unit of resampling. Texts are continued from their first
    `prompt_tokens` by up to `new_tokens`, once for each seed (once in all at temperature 0). Draws
    depend on seed, row and position alone, so both views meet the same; a draw is looked up in the
    cumulative distribution by token id, so texts part sooner than the total variation alone would
    make them. 0 new tokens or no sites leave that part out. A format that names no dtype keeps the
    reference's. ConfigError for a precision that does not exist, before anything runs;
    FamilyError for an encoder, SiteError for a site that does not exist.
    """
    check_predicts(view)
    for name in (reference, *precisions):
        if name not in PRECISIONS:
            Scheme.parse(name)
    named = inputs if isinstance(inputs, Mapping) else {"text": inputs}
    rows = {of: documents(view, texts) for of, texts in named.items()}
    first = view.using(precision=reference)
    drawn = tuple(seeds) if temperature else (0,)
    sampling = _Sampling(drawn, prompt_tokens, new_tokens, temperature, batch_size)
    places = (sites,) if isinstance(sites, str) else tuple(sites)
    reading = _Reading(sampling, places, numbers("layers", layers))
    expected = {of: reading.of(first, own) for of, own in rows.items()}
    found = Precision(view.name, reference, (), (), (), {reference: first.facts()})
    for name in tqdm(precisions, unit="precision", disable=None if progress else True):
        other = _under(view, name, first)
        found.facts[name] = other.facts()
        for of, own in rows.items():
            texts, sizes = reading.of(other, own)
            outputs = Outputs(name, of, divergence(first, other, own, batch_size=batch_size))
            found = replace(
                found,
                outputs=(*found.outputs, outputs),
                texts=(*found.texts, *_compared(name, of, expected[of][0], texts)),
                shifts=(*found.shifts, *_shifts(name, of, view, expected[of][1], sizes)),
            )
    return replace(found, manifest=reading.manifest(first, rows, precisions))


def _under(view: Subject, precision: str, reference: Subject) -> Subject:
    """The view in a precision; a format without a dtype keeps that of the reference."""
    if precision in PRECISIONS:
        return view.using(precision=precision)
    scheme = Scheme.parse(precision)
    return view.using(precision=str(replace(scheme, dtype=scheme.dtype or reference.dtype)))


@dataclass(frozen=True)
class _Sampling:
    """How texts are continued."""

    seeds: tuple[int, ...]
    prompt_tokens: int
    new_tokens: int
    temperature: float
    batch_size: int

    def texts(self, view: Subject, rows: Rows) -> Texts:
        """What the view draws after every row's beginning, for every seed."""
        found: Texts = {}
        if not self.new_tokens:
            return found
        for seed in self.seeds:
            for start in range(0, len(rows), self.batch_size):
                prompts = [row[: self.prompt_tokens] for row in rows[start:][: self.batch_size]]
                made = generate(
                    view,
                    prompts,
                    max_new_tokens=self.new_tokens,
                    temperature=self.temperature,
                    seed=seed,
                )
                for place, one in enumerate(made):  # type: ignore[arg-type]
                    found[start + place, seed] = one.tokens
        return found


def _compared(
    precision: str,
    of: str,
    reference: Texts,
    other: Texts,
) -> Iterator[FreeText]:
    for (document, seed), expected in reference.items():
        found = other[document, seed]
        pairs = enumerate(zip(expected, found, strict=False))
        shorter = min(len(expected), len(found))
        same = next((at for at, (a, b) in pairs if a != b), shorter)
        yield FreeText(precision, of, document, seed, same, len(expected), len(found))


@dataclass(frozen=True)
class _Reading:
    """What is read of every precision beside its predictions."""

    sampling: _Sampling
    sites: tuple[str, ...]
    layers: tuple[int, ...] | None

    def of(self, view: Subject, rows: Rows) -> tuple[Texts, tuple[Counts, Counts]]:
        """The texts that a view draws, and its histograms."""
        return self.sampling.texts(view, rows), self._halves(view, rows)

    def _halves(self, view: Subject, rows: Rows) -> tuple[Counts, Counts]:
        """The histograms of two halves of the documents, dealt by a hash of their numbers."""
        if not self.sites:
            return {}, {}
        halves = variant_weights(torch.arange(len(rows)), 0)[HALVES].bool().tolist()
        first, second = (
            self._histograms(view, [row for row, chosen in zip(rows, half) if chosen])
            for half in halves
        )
        return first, second

    def _histograms(self, view: Subject, rows: Rows) -> Counts:
        if not rows:
            return {}
        size = self.sampling.batch_size
        found = measure(view, rows, "histogram", self.sites, self.layers, size, progress=False)
        return {(site, step): _counts(one.result()) for (_, site, step), one in found.items()}

    def manifest(
        self, view: Subject, rows: Mapping[str, Rows], precisions: Sequence[str]
    ) -> dict[str, Any]:
        """The manifest of the study, with what was asked."""
        asked = {
            "precisions": list(precisions),
            "inputs": {of: len(own) for of, own in rows.items()},
            "sites": list(self.sites),
            "prompt_tokens": self.sampling.prompt_tokens,
            "new_tokens": self.sampling.new_tokens,
            "temperature": self.sampling.temperature,
        }
        tokens = [row for own in rows.values() for row in own]
        seeds = list(self.sampling.seeds)
        return manifest(view.facts(), tokens, study="precision", seeds=seeds, asked=asked)


def _counts(table: Mapping[str, np.ndarray]) -> np.ndarray:
    ends = [table[name] for name in ("zero", "underflow", "overflow", "nonfinite")]
    return np.concatenate([ends[:2], table["counts"], ends[2:]])


def _shifts(
    precision: str,
    of: str,
    view: Subject,
    reference: tuple[Counts, Counts],
    other: tuple[Counts, Counts],
) -> Iterator[Shift]:
    nothing = np.zeros(1, dtype=np.int64)
    for site, step in sorted(reference[0].keys() | reference[1].keys()):
        a, b = (half.get((site, step), nothing) for half in reference)
        c, d = (half.get((site, step), nothing) for half in other)
        layer = view.plan.steps[step].layer if step >= 0 else -1
        yield Shift(
            precision,
            of,
            site,
            step,
            layer,
            jsd=histogram_jsd(a + b, c + d),
            null=histogram_jsd(a, b),
            crossed=histogram_jsd(a, d),
        )


def histogram_jsd(first: np.ndarray, second: np.ndarray) -> float:
    """Jensen-Shannon divergence, in nats, of two histograms over the same bins; nothing is
    smoothed. NaN where one is empty."""
    if not first.sum() or not second.sum():
        return float("nan")
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = (np.where(one > 0, one * np.log(one / middle), 0.0).sum() for one in (p, q))
        return float(sum(terms) / 2)


def _output_row(one: Outputs) -> dict[str, Any]:
    row: dict[str, Any] = {
        "precision": one.precision,
        "input": one.input,
        "tokens": one.divergence.tokens,
    }
    table = one.divergence.table()
    for place, name in enumerate(table["measure"]):
        found = Estimate(*(table[column][place] for column in ("mean", "low", "high")))
        row |= _spread(name, found)
    for name in ("kl", "kl_reverse"):
        for column in ("median", "q99", "q999", "max"):
            row[f"{name}_{column}"] = table[column][table["measure"].index(name)]
    return row


def _format_row(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a precision is, from the facts of its view."""
    quantised = facts["quantised"] or {}
    row = {name: quantised.get(name) for name in _FORMAT_COLUMNS}
    return {"stored": facts["precision"], "weights_hash": facts["weights_hash"]} | row


_FORMAT_COLUMNS = ("weights", "activations", "embeddings", "rows_independent", "entries", "bytes")


def _spread(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of equal keys as columns."""
    listed = list(rows)
    return {name: [row[name] for row in listed] for name in listed[0]} if listed else {}
