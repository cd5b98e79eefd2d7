"""How well a text is predicted under many plans, and how far each is from the unchanged model.

A text longer than the window is read in windows that overlap: each token is scored once, with at
least `window - stride` tokens before it where the text has them. A model whose memory is a state of
one size reads on with it instead, so that every token has the whole text before it.

Axes: U units of resampling, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from laminogram.errors import ConfigError, TokenError
from laminogram.evaluate.divergence import Estimate, kl, mean_of_documents
from laminogram.evaluate.encode import LONGEST, Row, rolling
from laminogram.evaluate.loss import check_predicts, needs_all_logits
from laminogram.evaluate.packing import Pack, pack
from laminogram.evaluate.reading import Reading, read
from laminogram.evaluate.timing import Seconds
from laminogram.plans import Plan
from laminogram.plans.tree import PlanTree
from laminogram.probe.program import Effects, check_effects, check_together
from laminogram.probe.subject import Subject
from laminogram.stack.cache import grows

TOKENS, NATS, KL_FROM, KL_TO = range(4)

_Owned = tuple[Row, int]
"""A row and the unit that its tokens are counted in."""


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """A text under one plan.

    nats: of a token, and perplexity, their exponential; kl_from: KL(unchanged || plan), what is
    lost by taking the plan for the model; kl_to: KL(plan || unchanged); both in nats a token. unit:
    what was resampled, documents, or the stretches of a single one (with one unit alone intervals
    are NaN); bits_per_byte: of UTF-8 text.
    """

    plan: str
    tokens: int
    units: int
    unit: str
    nats: Estimate
    perplexity: Estimate
    bits_per_byte: float
    kl_from: Estimate
    kl_to: Estimate
    seconds_per_token: float


@torch.no_grad()
def score_text(
    view: Subject,
    texts: Sequence[str],
    plans: Iterable[Plan | str] | None = None,
    *,
    reference: Subject | None = None,
    window: int | None = None,
    stride: int | None = None,
    bos: bool | None = None,
    batch_tokens: int = 2048,
) -> list[TextScore]:
    """Perplexity of texts, each a document, under every plan, and the distance to the unchanged.

    reference: what counts as unchanged; by default the same weights, edited or quantised as they
    are here, in the stack's own order without edits at sites. window: tokens read at a time, by
    default what the model was trained for. stride: how far a window moves, by default half of it.
    Errors as in `evaluate.loss.loss`, ConfigError for a window or stride out of range.
    """
    check_predicts(view)
    chosen = [view.plan] if plans is None else list(dict.fromkeys(map(Plan.of, plans)))
    reference = reference or replace(view, plan=view.stack.full_plan(), edits=())
    if window is None:
        window = view.config.max_position_embeddings or LONGEST
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= stride <= window:
        raise ConfigError(f"the stride is {stride}; it lies between 1 and the window, {window}")
    documents = [view.needed_tokenizer().encode(text, bos) for text in texts]
    if max(map(len, documents), default=0) < 2:
        raise TokenError("no document has two tokens: the loss is that of a token after another")
    check_together((*view.edits, *reference.edits), len(texts), None)
    reader = _Reader(view, reference, chosen, window, stride, batch_tokens)
    sums = reader.sums(documents)
    nbytes = sum(_predicted_bytes(view, text, ids) for text, ids in zip(texts, documents))
    seconds = Seconds()
    return [
        _score(str(plan), sums[number], len(documents), nbytes, seconds.of(view.using(plan=plan)))
        for number, plan in enumerate(chosen)
    ]


@dataclass(frozen=True)
class _Reader:
    """One view under several plans beside a reference, over tokens."""

    view: Subject
    reference: Subject
    plans: Sequence[Plan]
    window: int
    stride: int
    batch_tokens: int

    def sums(self, documents: Sequence[Sequence[int]]) -> np.ndarray:
        """Sums over scored tokens (plans, U, 4): `TOKENS`, `NATS`, `KL_FROM`, `KL_TO`.

        A unit is a document, or of a single document a row of it.
        """
        carries = not any(map(grows, self.view.new_cache(1).tensors()))
        carried = [ids for ids in documents if carries and len(ids) > self.window + 1]
        whole = [ids for ids in documents if not (carries and len(ids) > self.window + 1)]
        split = [list(rolling(ids, self.window, self.stride)) for ids in whole]
        split += [_stretches(ids, self.window) for ids in carried]
        alone = len(documents) == 1
        units = [
            [(row, place if alone else number) for place, row in enumerate(rows)]
            for number, rows in enumerate(split)
        ]
        total = 1 + max(unit for own in units for _, unit in own)
        sums = np.zeros((len(self.plans), total, 4))
        for number, base, reading, owners in self._readings(
            units[: len(whole)], units[len(whole) :]
        ):
            sizes = [row.scored for row in reading.pack.rows]
            for own, part in zip(owners, _compared(base, reading).split(sizes), strict=True):
                for unit in own:
                    sums[number, unit] += part.sum(0).numpy()
        return sums

    def _readings(
        self, whole: Sequence[Sequence[_Owned]], carried: Sequence[Sequence[_Owned]]
    ) -> Iterator[tuple[int, Reading, Reading, list[list[int]]]]:
        """(number of the plan, what the reference reads, what the view reads, the units of each of
        its rows) of every pack. Equal rows are read once, but not where each goes on from what was
        before it."""
        effects: Effects = []
        tree = PlanTree(self.plans)
        units: dict[Row, list[int]] = {}
        for row, unit in (one for own in whole for one in own):
            units.setdefault(row, []).append(unit)
        rows = [[row for row, _ in own] for own in whole]
        for one in pack(rows, self.batch_tokens, share="nothing"):
            ((_, base),) = read(self.reference, PlanTree([self.reference.plan]), one, effects)
            for number, reading in read(self.view, tree, one, effects):
                yield number, base, reading, [units[row] for row in one.rows]
        if not carried:  # whose runs count nothing
            check_effects(effects)
        for own in carried:
            views = [self.reference, *(self.view.using(plan=plan) for plan in self.plans)]
            caches = [one.new_cache(1) for one in views]
            for row, unit in own:
                base, *readings = map(_read_on, views, caches, [row] * len(views))
                for number, reading in enumerate(readings):
                    yield number, base, reading, [[unit]]


def _stretches(ids: Sequence[int], length: int) -> list[Row]:
    """Neighbouring rows, each beginning with the last token of the one before; all is scored."""
    ids = tuple(ids)
    parts = (ids[begin : begin + length + 1] for begin in range(0, len(ids) - 1, length))
    return [Row(part, len(part) - 1) for part in parts]


def _read_on(view: Subject, cache: object, row: Row) -> Reading:
    """One row after those that the cache has seen."""
    every = "all" if needs_all_logits(view) else "none"
    out = view.run(view.tokens([row.inputs]), cache=cache, logits=every)  # type: ignore[arg-type]
    return Reading(view, Pack((row.inputs,), ((row,),)), out[0])


def _compared(base: Reading, reading: Reading) -> Tensor:
    """Of every scored token (N, 4): 1, its nats, and the divergences from and to the reference."""
    targets, found = reading.targets, []
    for (part, ours), (_, theirs) in zip(reading.logits(), base.logits(), strict=True):
        p, q = theirs.log_softmax(-1), ours.log_softmax(-1)
        nats = F.nll_loss(q, targets[part], reduction="none")
        sums = torch.stack((torch.ones_like(nats), nats, kl(p, q), kl(q, p)), 1)
        found.append(sums.double().cpu())
    return torch.cat(found)


def _predicted_bytes(view: Subject, text: str, ids: Sequence[int]) -> int:
    """UTF-8 bytes of what is predicted: all but a first token that is itself text."""
    first = view.needed_tokenizer().decode(ids[:1], skip_special=True)
    return len(text.encode()) - len(first.encode())


def _score(
    plan: str, sums: np.ndarray, documents: int, nbytes: int, seconds_per_token: float
) -> TextScore:
    """From the sums of the units (U, 4) to means with intervals."""
    counts, *others = torch.from_numpy(sums).unbind(1)
    nats, kl_from, kl_to = (mean_of_documents(other, counts) for other in others)
    total = sums.sum(0)
    return TextScore(
        plan=plan,
        tokens=int(total[TOKENS]),
        units=len(sums),
        unit="documents" if documents > 1 else "stretches",
        nats=nats,
        perplexity=nats.exponential(),
        bits_per_byte=total[NATS] / math.log(2) / nbytes if nbytes else math.nan,
        kl_from=kl_from,
        kl_to=kl_to,
        seconds_per_token=seconds_per_token,
    )
