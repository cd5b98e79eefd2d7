"""How far the predictions of two views lie apart on the same tokens, teacher forced.

Everything is computed over the whole vocabulary in fp64, so many tokens at a time that memory stays
bounded; nothing is cut off or binned. Equal views give exactly zero.

Axes: B rows (documents), T tokens, N real tokens of some rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError, TokenError
from laminogram.evaluate.loss import check_predicts, needs_all_logits
from laminogram.probe.manifest import manifest
from laminogram.probe.program import check_together
from laminogram.probe.statistics.bootstrap import ALL, interval, variant_weights
from laminogram.probe.subject import Subject, Text
from laminogram.stack.batch import Batch
from laminogram.stack.forward import Logits

_CHUNK = 1 << 20
"""Logits of one view that exist at one time: 8 MiB in fp64, and some ten such tensors."""

REPLICATES = 1000
MEASURES = (
    "kl",
    "kl_reverse",
    "jsd",
    "total_variation",
    "agreement",
    "rank",
    "loss_reference",
    "loss",
)
"""What a `Divergence` holds of every token."""
_DERIVED = ("perplexity_reference", "perplexity", "log_ratio")
_LEVELS = {"median": 0.5, "q99": 0.99, "q999": 0.999, "max": 1.0}


@dataclass(frozen=True)
class Estimate:
    """A number over documents, and its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan([self.low, self.high]).all():  # of one document there is no interval
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def exponential(self) -> Estimate:
        """exp of the number; ranks stay, so of its interval too."""
        return Estimate(*np.exp((self.value, self.low, self.high)).tolist())


def mean_of_documents(
    sums: Tensor,
    counts: Tensor,
    first_document: int = 0,
    replicates: int = REPLICATES,
    level: float = 0.95,
) -> Estimate:
    """The mean of what documents hold: the sum of `sums` (B,) over that of `counts` (B,).

    Its interval is the percentiles over resampled documents, the same for every caller that numbers
    them alike; NaN where one document alone has anything.
    """
    sums, counts = sums.double().cpu(), counts.double().cpu()
    known = counts > 0
    documents = torch.arange(len(counts))[known] + first_document
    weights = variant_weights(documents, replicates)
    # A replicate may draw no document at all: NaN, which `interval` leaves out.
    variants = ((weights @ sums[known]) / (weights @ counts[known])).numpy()
    low, high = interval(variants, level) if len(documents) > 1 else (np.nan, np.nan)
    return Estimate(float(variants[ALL]), float(low), float(high))


@dataclass(frozen=True, eq=False)
class Divergence:
    """Of every predicted token (B, T-1), laid out as `Loss` is, 0 where `mask` is false.

    With p of the reference and q of the other view, over all next tokens:

    - `kl`: KL(p || q) = sum p log(p / q), `kl_reverse`: KL(q || p), nats, fp64
    - `jsd`: Jensen-Shannon divergence, nats, at most log 2
    - `total_variation`: sum |p - q| / 2
    - `agreement` (bool): whether both find the same token likeliest; NaN finds none
    - `rank` (int64): how many tokens the other view holds likelier than the reference's likeliest,
      all of them where it says NaN
    - `loss_reference`, `loss`: nats of the token that followed, under either

    first_document: the number of row 0, by which resampling knows a document.
    """

    kl: Tensor
    kl_reverse: Tensor
    jsd: Tensor
    total_variation: Tensor
    agreement: Tensor
    rank: Tensor
    loss_reference: Tensor
    loss: Tensor
    mask: Tensor
    first_document: int = 0
    manifest: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def tokens(self) -> int:
        """How many tokens were predicted."""
        return int(self.mask.sum())

    def values(self, measure: str) -> Tensor:
        """A measure of all predicted tokens (N,), fp64; ConfigError names what exists."""
        _check_measure(measure, MEASURES)
        chosen: Tensor = getattr(self, measure)[self.mask].double()
        return chosen

    def quantile(self, measure: str, level: float) -> float:
        """A quantile over tokens, by linear interpolation."""
        return float(np.quantile(self.values(measure).numpy(force=True), level))

    def estimate(
        self, measure: str, *, replicates: int = REPLICATES, level: float = 0.95
    ) -> Estimate:
        """The mean over tokens with its interval from resampled documents.

        Beside `MEASURES` there are `perplexity_reference`, `perplexity`, and `log_ratio`, the mean
        of `loss - loss_reference`. The interval is NaN where there is one document only.
        """
        _check_measure(measure, (*MEASURES, *_DERIVED))
        sums, counts = self._sums(measure), self.mask.sum(1)
        found = mean_of_documents(sums, counts, self.first_document, replicates, level)
        return found.exponential() if measure.startswith("perplexity") else found

    def table(self, **options: Any) -> dict[str, list[Any]]:
        """A row a measure: mean, interval, and quantiles over tokens of what each token has."""
        names = (*MEASURES, *_DERIVED)
        found = [self.estimate(name, **options) for name in names]
        columns: dict[str, list[Any]] = {
            "measure": list(names),
            "mean": [one.value for one in found],
            "low": [one.low for one in found],
            "high": [one.high for one in found],
        }
        for column, level in _LEVELS.items():
            columns[column] = [
                self.quantile(name, level) if name in MEASURES else None for name in names
            ]
        return columns

    def _sums(self, measure: str) -> Tensor:
        """The sum over each row's tokens (B,), fp64."""
        if measure == "log_ratio":
            return (self.loss - self.loss_reference).sum(1)
        named = {"perplexity": "loss", "perplexity_reference": "loss_reference"}
        summed: Tensor = getattr(self, named.get(measure, measure)).double().sum(1)
        return summed

    def __str__(self) -> str:
        kl = self.estimate("kl")
        share = self.estimate("agreement").value
        return f"KL {kl} nats a token, agreement {share:.2%}, {self.tokens} tokens"

    __repr__ = __str__


@torch.no_grad()
def divergence(
    reference: Subject, other: Subject, x: Text, *, batch_size: int = 8, first_document: int = 0
) -> Divergence:
    """Compare what two views predict after every token of `x` but each row's last.

    batch_size: rows that run together. Both views read the same ids, those of `reference`'s
    tokenizer. ConfigError where their vocabularies differ in size, FamilyError for an encoder or a
    model without a head, TokenError where no row has two tokens.
    """
    check_predicts(reference)
    check_predicts(other)
    sizes = reference.config.vocab_size, other.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"{reference.name} predicts {sizes[0]} tokens and {other.name} {sizes[1]}: their "
            "predictions are of different things"
        )
    batch = reference.tokens(x)
    if max(batch.lengths) < 2:
        raise TokenError("no row has two tokens: what is compared is a token after another")
    check_together((*reference.edits, *other.edits), len(batch.lengths), batch_size)
    parts: list[dict[str, Tensor]] = []
    for rows, finals in _finals((reference, other), batch, batch_size):
        real = batch.mask[rows, 1 : finals[0].shape[1]].to(finals[0].device)
        targets = batch.tokens[rows, 1 : finals[0].shape[1]].to(real.device)[real]
        kept = [final[:, :-1][real.to(final.device)] for final in finals]
        parts += _in_chunks((reference, other), kept, targets)
    columns = {name: torch.cat([part[name] for part in parts]) for name in MEASURES}
    return Divergence(
        **_laid_out(batch, columns),
        first_document=first_document,
        manifest=manifest(other.facts(), batch, reference=reference.facts(), measure="divergence"),
    )


def _finals(
    views: tuple[Subject, Subject], batch: Batch, batch_size: int
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Some rows, and what enters each view's head for them (B, T, C), or logits that are edited."""
    programs = [view.program() if view.edits else None for view in views]
    for start in range(0, len(batch.lengths), batch_size):
        rows = slice(start, start + batch_size)
        lengths = batch.lengths[rows]
        width = max(lengths)
        part = Batch(batch.tokens[rows, :width], lengths, (0,) * len(lengths), width)
        if width < 2:
            continue
        outs = []
        for view, program in zip(views, programs, strict=True):
            if program is not None:
                program.prompt_lengths = None  # every part is a prompt of its own
            wanted: Logits = "all" if needs_all_logits(view) else "none"
            outs.append(view.run(part, observer=program, logits=wanted))
        yield rows, outs
    for program in programs:
        if program is not None:
            program.check()


def _in_chunks(
    views: tuple[Subject, Subject], finals: list[Tensor], targets: Tensor
) -> Iterator[dict[str, Tensor]]:
    """The measures of so many tokens at a time as `_CHUNK` says."""
    chunk = max(1, _CHUNK // views[0].config.vocab_size)
    for start in range(0, len(targets), chunk):
        part = slice(start, start + chunk)
        first, second = (
            _logits(view, final[part]).double().to(targets.device)
            for view, final in zip(views, finals, strict=True)
        )
        yield compare(first, second, targets[part])


def _logits(view: Subject, final: Tensor) -> Tensor:
    if needs_all_logits(view):
        return final
    made: Tensor = view.stack.head(final, view.stack.tied_table)
    return made


def compare(reference: Tensor, other: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """`MEASURES` (N,) of logits (N, V) in fp64 and the tokens (N,) that followed."""
    log_p, log_q = reference.log_softmax(-1), other.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    ahead = torch.where(log_p == log_q, 0.0, log_q - log_p)  # also where both are impossible
    middle = (p + q) / 2
    likeliest = log_p.argmax(-1, keepdim=True)
    return {
        "kl": _kl(p, q, ahead),
        "kl_reverse": _kl(q, p, -ahead),
        "jsd": (_kl(p, middle, _to_middle(ahead)) + _kl(q, middle, _to_middle(-ahead))) / 2,
        "total_variation": (p - q).abs().sum(-1) / 2,
        "agreement": same_likeliest(log_p, log_q),
        "rank": (~(log_q <= log_q.gather(-1, likeliest))).sum(-1),
        "loss_reference": -log_p.gather(-1, targets[:, None])[:, 0],
        "loss": -log_q.gather(-1, targets[:, None])[:, 0],
    }


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) (N,) in nats of log-probabilities (N, V), in their own precision: what p rules out
    adds nothing, what q alone rules out makes it infinite, and NaN on either side gives NaN."""
    p = log_p.exp()
    return torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(-1)


def same_likeliest(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Whether log-probabilities (N, V) find the same token likeliest (N,); NaN finds none."""
    known = ~(log_p[:, 0].isnan() | log_q[:, 0].isnan())  # a softmax is NaN throughout
    return known & (log_p.argmax(-1) == log_q.argmax(-1))


def _kl(p: Tensor, q: Tensor, ahead: Tensor) -> Tensor:
    """KL(p || q) with `ahead` = log q - log p.

    As the sum of p (e^d - 1 - d), which equals that of -p d since both sum to one: no term is
    negative, so none cancel, and small divergences keep their digits.
    """
    near = p * (torch.expm1(ahead) - ahead)
    terms = torch.where(ahead < 1, near, q - p - p * ahead)
    return torch.where(p == 0, q, terms.clamp(min=0)).sum(-1)


def _to_middle(ahead: Tensor) -> Tensor:
    """log((p + q) / 2) - log p, from log q - log p; exactly 0 at 0."""
    low = torch.log1p(torch.expm1(ahead) / 2)
    return torch.where(ahead < 1, low, ahead + torch.log1p(torch.expm1(-ahead) / 2))


def _laid_out(batch: Batch, columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """Measures of real tokens (N,), row after row, as (B, T-1) in the user's layout, with `mask`.

    Column 0 of a row is predicted from nothing; with it they are laid out as the tokens are.
    """
    some = next(iter(columns.values()))
    real = batch.mask.to(some.device)
    predicted = torch.cat((torch.zeros_like(real[:, :1]), real[:, 1:]), 1)
    mask = batch.restore(predicted) & batch.restored_mask.to(some.device)
    laid = {"mask": mask[:, 1:].contiguous()}
    for name, values in columns.items():
        whole = values.new_zeros(real.shape)
        whole[predicted] = values
        restored = torch.where(mask, batch.restore(whole), torch.zeros_like(values[:1]))
        laid[name] = restored[:, 1:].contiguous()
    return laid


def _check_measure(measure: str, known: tuple[str, ...]) -> None:
    if measure not in known:
        raise ConfigError(f"there is no measure {measure!r}; there are {', '.join(known)}")
