"""What definitions need: which statistics at which sites, and what memory these take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from laminogram.errors import ConfigError
from laminogram.outliers.base import Definition
from laminogram.outliers.evidence import Context
from laminogram.probe.program import axis_sizes, steps_of
from laminogram.probe.statistics import Statistic
from laminogram.probe.statistics.bootstrap import Resampled
from laminogram.probe.statistics.channels import Channels
from laminogram.probe.statistics.documents import Documents
from laminogram.probe.subject import Subject
from laminogram.stack.sites import STACK_STEP, find, layer_sites

SITES = ("resid_pre", "attn_in", "resid_mid", "ffn_in", "attn_out", "ffn_out", "resid_post")
"""The residual stream before and after each norm, and what is added to it."""

Needs = dict[Context, dict[str, tuple[Statistic, ...]]]


def default_sites(view: Subject) -> tuple[str, ...]:
    """`SITES` as far as any layer of the view's plan has them."""
    there = _sites(view)
    return tuple(name for name in SITES if name in there)


def needs(
    view: Subject,
    definitions: Sequence[Definition],
    asked: Sequence[str],
    null: str | None = None,
    replicates: int = 64,
) -> Needs:
    """For every context and site the statistics that the definitions, and a null, read.

    asked: the sites of definitions that read no site of their own. A site that a definition reads
    and no layer has is left out. ConfigError where two want one statistic with different options.
    """
    there = _sites(view)
    found: Needs = {}
    for one in definitions:
        kinds = one.statistics()
        for site in (one.sites or asked) if kinds else ():
            if one.sites and site not in there:
                continue
            known = found.setdefault(one.context, {})
            known[site] = _joined(known.get(site, ()), kinds, replicates)
    if null in ("gaussian", "channels"):
        for site, kinds in found.get("full", {}).items():
            found["full"][site] = _joined(kinds, (Documents(), Channels()), replicates)
    return found


def memory(
    view: Subject, wanted: Needs, documents: int, layers: Sequence[int] | None = None
) -> int:
    """Bytes that the statistics hold after so many documents, without what a batch takes.

    For the context `alone` documents are token ids, at most the vocabulary.
    """
    total = 0
    for context, by_site in wanted.items():
        lines = view.config.vocab_size if context == "alone" else documents
        for site, kinds in by_site.items():
            for step in steps_of(site, view.config, view.plan, layers):
                width = _width(view, site, step)
                total += sum(one.memory(width, documents=lines) for one in kinds)
    return total


def _width(view: Subject, site: str, step: int) -> int:
    """Channels of a site at a step, all axes after the tokens together; of a pattern its heads."""
    layer = None if step == STACK_STEP else view.plan.steps[step].layer
    row = find(site, view.config, layer)
    sizes = axis_sizes(row, view.config, layer)
    return prod(sizes[axis] for axis in row.axes if axis not in ("B", "T", "S"))


def _sites(view: Subject) -> set[str]:
    """The sites that any layer of the view's plan has."""
    numbers = {step.layer for step in view.plan}
    return {site.name for number in numbers for site in layer_sites(view.config.layers[number])}


def _joined(
    have: tuple[Statistic, ...], more: Iterable[Statistic], replicates: int
) -> tuple[Statistic, ...]:
    """Both, each kind once."""
    by_name = {one.name: one for one in have}
    for one in more:
        if isinstance(one, Resampled) and "replicates" in one.options():
            one = type(one)(**one.options() | {"replicates": replicates})
        other = by_name.setdefault(one.name, one)
        if other.options() != one.options():
            raise ConfigError(
                f"two definitions want {other!r} and {one!r} at one site; give them the same "
                "numbers, or ask for them one after the other"
            )
    return tuple(by_name.values())
