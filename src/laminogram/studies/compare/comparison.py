"""Comparing conditions: models, precisions, plans, edits, training steps, inputs.

    compare([view, view.using(precision="int8")], texts)

The first view is the reference. What is compared follows from what both share: on the same tokens
everything; on the same text in other tokens bits a byte and distributions; on other texts the
distributions alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from laminogram.errors import ConfigError, SiteError
from laminogram.evaluate.divergence import mean_of_documents
from laminogram.probe.manifest import manifest
from laminogram.probe.program import check_together
from laminogram.probe.subject import Subject
from laminogram.studies.compare.distributions import (
    BIN_WIDTH,
    Scale,
    Sizes,
    check_scale,
    recentred,
    shift,
)
from laminogram.studies.compare.matching import Match, matches, rule_of
from laminogram.studies.compare.outputs import (
    Measured,
    by_bytes,
    by_tokens,
    bytes_predicted,
    predicts,
    summed_nats,
)
from laminogram.studies.compare.reading import (
    Address,
    Differences,
    Rows,
    cka_variants,
    differences,
    sizes,
)
from laminogram.studies.compare.result import Comparison, Pair, Shared, SitePair
from laminogram.studies.corpus import BUNDLED, rows_of

SITES = ("attn_out", "ffn_out", "resid_post")
Input = Sequence[str] | Rows


class _Side:
    """One condition with its documents, and what was measured of it alone."""

    def __init__(self, view: Subject, given: Input, label: str, bos: bool | None) -> None:
        self.view, self.label = view, label
        listed = list(given)
        if not listed:
            raise ConfigError(f"{label} was given no document to read")
        # Texts are known, ids may be of no text.
        self.texts = [str(one) for one in listed] if isinstance(listed[0], str) else None
        self.rows: Rows = (
            [list(row) for row in listed]  # type: ignore[arg-type]
            if self.texts is None
            else rows_of(view, self.texts, bos)
        )
        self.sizes: dict[Address, Sizes] = {}

    def shares(self, other: _Side) -> Shared:
        same_size = self.view.config.vocab_size == other.view.config.vocab_size
        if same_size and self.rows == other.rows:
            return "tokens"
        return "text" if self.texts is not None and self.texts == other.texts else "nothing"


@torch.no_grad()
def compare(
    views: Sequence[Subject],
    texts: Input = BUNDLED,
    *,
    labels: Sequence[str] | None = None,
    inputs: Mapping[int, Input] | None = None,
    sites: Sequence[str] = SITES,
    bos: bool | Sequence[bool | None] | None = None,
    scale: Scale = "rms",
    batch_size: int = 8,
    progress: bool = True,
) -> Comparison:
    """Compare every view with the first.

    texts: documents, as texts or as token ids; inputs: those of single views, by number, instead.
    bos: for all views or for each; None follows the tokenizer's habit. scale: what |x| is divided
    by before distributions are compared, `rms` or `median` of its place. ConfigError for fewer than
    two views, SiteError for a site that a model lacks, TokenError for text without a tokenizer.
    """
    if len(views) < 2:
        raise ConfigError("a comparison needs two conditions at least, the first its reference")
    check_scale(scale)
    names = _free(labels or [_told(view) for view in views])
    switches = [bos] * len(views) if bos is None or isinstance(bos, bool) else list(bos)
    given = dict(inputs or {})
    sides = [
        _Side(view, given.get(number, texts), name, switch)
        for number, (view, name, switch) in enumerate(zip(views, names, switches, strict=True))
    ]
    for side in sides:
        check_together(side.view.edits, len(side.rows), batch_size)
    how: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    pairs = tuple(_pair(sides[0], other, tuple(sites), scale, how) for other in sides[1:])
    first = sides[0]
    asked = {"sites": list(sites), "scale": scale, "bin_width": BIN_WIDTH, "labels": list(names)}
    facts = tuple(side.view.facts() for side in sides)
    return Comparison(
        tuple(names),
        facts,
        tuple(side.view.card().parameter_total for side in sides),
        pairs,
        len(first.rows),
        sum(map(len, first.rows)),
        scale,
        BIN_WIDTH,
        manifest(facts[0], first.rows, study="compare", asked=asked, others=list(facts[1:])),
    )


def _pair(
    first: _Side, other: _Side, sites: Sequence[str], scale: Scale, how: Mapping[str, Any]
) -> Pair:
    shared = first.shares(other)
    notes = [*_about_input(first, other, shared)]
    outputs: list[Measured] = []
    if predicts(first.view) and predicts(other.view):
        outputs = _outputs(first, other, shared, how["batch_size"])
    else:
        notes.append("At least one model predicts no next token: its outputs are not compared.")
    found = [match for site in sites for match in matches(first.view, other.view, site)]
    if not found:
        raise SiteError(f"{first.label} and {other.label} run no layer in common at {sites}")
    apart = None
    if shared == "tokens":
        apart = differences(first.view, other.view, found, first.rows, **how)
    for side, name in ((first, "step"), (other, "step_other")):
        places = {(match.site, getattr(match, name)) for match in found} - side.sizes.keys()
        if places:
            side.sizes |= sizes(side.view, sorted(places), side.rows, **how)
    return Pair(
        first.label,
        other.label,
        shared,
        rule_of(first.view, other.view),
        tuple(outputs),
        tuple(
            _place(match, number, first.sizes, other.sizes, apart, scale)
            for number, match in enumerate(found)
        ),
        tuple(notes),
    )


def _outputs(first: _Side, other: _Side, shared: Shared, batch_size: int) -> list[Measured]:
    measured: list[Measured] = []
    if shared == "tokens":
        found, measured = by_tokens(first.view, other.view, first.rows, batch_size)
        nats = (found.loss_reference.double().sum(1).cpu(), found.loss.double().sum(1).cpu())
    else:
        sides = (first, other)
        nats = tuple(summed_nats(one.view, one.rows, batch_size) for one in sides)  # type: ignore[assignment]
    if first.texts is None or other.texts is None:
        return measured
    counts = tuple(
        bytes_predicted(one.view, one.texts, one.rows)
        for one in (first, other)
        if one.texts is not None
    )
    paired = shared != "nothing"
    return [*measured, *by_bytes(nats, (counts[0], counts[1]), paired)]


def _place(
    match: Match,
    number: int,
    mine: Mapping[Address, Sizes],
    theirs: Mapping[Address, Sizes],
    apart: Differences | None,
    scale: Scale,
) -> SitePair:
    sides = mine[match.site, match.step], theirs[match.site, match.step_other]
    moved = shift(sides[0].scaled(scale), sides[1].scaled(scale))
    if apart is None:
        return SitePair(match, moved)
    if number in apart.kept:
        variants, null = cka_variants(apart.kept[number], apart.documents)
        return SitePair(match, moved, cka=recentred(variants, 1.0), cka_null=null)
    counts = torch.from_numpy(apart.count[number])
    error, distance = (
        mean_of_documents(torch.from_numpy(sums[number]), counts)
        for sums in (apart.error, apart.distance)
    )
    return SitePair(match, moved, error, distance)


def _about_input(first: _Side, other: _Side, shared: Shared) -> list[str]:
    """What cannot be compared, and why."""
    said = []
    if shared == "text":
        said.append(
            f"{first.label} and {other.label} cut the text into different tokens: their outputs "
            "are compared by bits a byte only, and their states not at all."
        )
    elif shared == "nothing":
        said.append(
            f"{first.label} and {other.label} read different inputs: only distributions are "
            "compared, and intervals are not paired."
        )
    elif first.view.config.hidden_size != other.view.config.hidden_size:
        said.append("Widths differ: states are aligned by CKA, and there is no error between them.")
    return said


def _told(view: Subject) -> str:
    """A label of a view that was given none: its name, and what is not as loaded."""
    edits = len(view.edits) + len(view.weight_edits)
    more = f", {edits} edit{'s' if edits > 1 else ''}" if edits else ""
    plan = "" if view.plan == view.stack.full_plan() else f", plan {view.plan}"
    return f"{view.name} ({view.precision}{plan}{more})"


def _free(labels: Sequence[str]) -> list[str]:
    """The labels, numbered where one comes again."""
    seen: Counter[str] = Counter()
    found = []
    for label in labels:
        seen[label] += 1
        found.append(label if seen[label] == 1 else f"{label} [{seen[label]}]")
    return found
