"""All definitions over one model and its texts: one table, and where verdicts differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch

from laminogram.errors import ConfigError
from laminogram.outliers import nulls
from laminogram.outliers.base import WHOLE, Definition, Entry, available, create
from laminogram.outliers.evidence import Context, Evidence
from laminogram.outliers.needs import Needs, default_sites, needs
from laminogram.probe.measuring import stream
from laminogram.probe.numbers import numbers
from laminogram.probe.recording import Request, documents
from laminogram.probe.statistics import Measurement
from laminogram.probe.subject import Subject, Text

START = 64
"""How many first tokens of a text the definitions of patterns read."""

ALONE_BATCH = 256

What = str | Definition | type[Definition]


@dataclass(frozen=True, eq=False)
class Verdicts:
    """The entries of all definitions, and how the numbers were taken.

    `null` names what `Entry.null` was drawn from. `definitions` tells the source, trap and
    thresholds of each.
    """

    entries: tuple[Entry, ...]
    definitions: tuple[Definition, ...]
    null: str | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def of(
        self, definition: str, quantity: str | None = None, site: str | None = None
    ) -> tuple[Entry, ...]:
        """The entries of a definition; ConfigError, naming what there is, where there are none."""
        found = tuple(
            entry
            for entry in self.entries
            if entry.definition == definition
            and quantity in (None, entry.quantity)
            and site in (None, entry.site)
        )
        if not found:
            known = dict.fromkeys(f"{e.definition}: {e.quantity} at {e.site}" for e in self.entries)
            raise ConfigError(
                f"no entry of {definition!r} (quantity {quantity!r}, site {site!r}); there are "
                f"{'; '.join(known)}"
            )
        return found

    def table(self) -> dict[str, list[Any]]:
        """Every entry as a line of columns: definition, quantity, site, step, layer, value, low,
        high, halves, threshold, verdict, null, detail, decided."""
        rows = [entry.row() for entry in self.entries]
        return {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}

    def about(self) -> list[dict[str, Any]]:
        """Name, source, trap and options of every definition."""
        return [
            {"name": one.name, "source": one.source, "trap": one.trap, "options": one.options()}
            for one in self.definitions
        ]

    def differ(self, by: str = "layer") -> list[dict[str, Any]]:
        """Where two definitions disagree: a line for each pair and layer (or place).

        by: `layer` compares what definitions say of a layer, yes where any of its sites gets a yes,
        so that definitions of different sites meet; `site` compares at the same site and step only.
        Each line has `first`, `second` with `first_verdict` and `second_verdict`, `where` (a layer,
        or site and step), and the entries that decided.
        """
        if by not in ("layer", "site"):
            raise ConfigError(f"verdicts are compared by 'layer' or 'site', not by {by!r}")
        said = self._said(by)
        lines = []
        for first, second in combinations(sorted(said), 2):
            for where in sorted(said[first].keys() & said[second].keys()):
                one, two = said[first][where], said[second][where]
                if one.verdict != two.verdict:
                    lines.append(
                        {
                            "first": first,
                            "second": second,
                            "where": where,
                            "first_verdict": one.verdict,
                            "second_verdict": two.verdict,
                            "first_entry": one,
                            "second_entry": two,
                        }
                    )
        return lines

    def agreement(self, by: str = "layer") -> dict[str, Any]:
        """For every pair of definitions the number of layers (or places) both judge, and of those
        they judge alike: `names` (K,), `compared` and `alike` (K, K)."""
        said = self._said(by)
        names = sorted(said)
        compared = np.zeros((len(names), len(names)), dtype=np.int64)
        alike = np.zeros_like(compared)
        for i, first in enumerate(names):
            for j, second in enumerate(names):
                both = said[first].keys() & said[second].keys()
                compared[i, j] = len(both)
                alike[i, j] = sum(
                    said[first][at].verdict == said[second][at].verdict for at in both
                )
        return {"names": names, "compared": compared, "alike": alike}

    def _said(self, by: str) -> dict[str, dict[Any, Entry]]:
        """The entry that stands for each definition and place: one that says yes, if any does."""
        said: dict[str, dict[Any, Entry]] = {}
        for entry in self.entries:
            if entry.verdict is None or entry.site == WHOLE:
                continue
            where = entry.layer if by == "layer" else (entry.site, entry.step)
            at = said.setdefault(entry.definition, {})
            if where not in at or (entry.verdict and not at[where].verdict):
                at[where] = entry
        return said


def verdicts(
    view: Subject,
    texts: Text,
    definitions: Iterable[What] | None = None,
    sites: Sequence[str] | None = None,
    layers: int | Iterable[int] | None = None,
    *,
    null: str | None = "gaussian",
    replicates: int = 64,
    batch_size: int = 8,
    progress: bool = True,
    seed: int = 0,
) -> Verdicts:
    """Measure a model on texts and let every definition judge every layer and site.

    definitions: names, or definitions with other thresholds; None for all. sites: where those that
    read no site of their own look; None for `needs.SITES` as far as the model has them. null: see
    `outliers.nulls`; None for none. replicates: of the bootstrap of channel statistics. Texts are
    read once whole, once cut to `START` tokens where patterns are asked for, and each token that
    occurs once more by itself where a definition reads it alone. ConfigError and SiteError name
    what does not exist.
    """
    nulls.check(null)
    chosen = tuple(create(what) for what in (available() if definitions is None else definitions))
    rows = [list(row) for row in documents(view, texts)]
    asked = default_sites(view) if sites is None else tuple(sites)
    plan = needs(view, chosen, asked, null, replicates)
    evidence, empty = _measured(view, rows, plan, layers, null, seed, batch_size, progress)
    for one in (evidence, empty):
        if one is not None:
            one.asked = asked
    manifest = evidence.measurements["full"].manifest if "full" in evidence.measurements else {}
    return judge(evidence, chosen, null=null, empty=empty, manifest=manifest)


def judge(
    evidence: Evidence | Measurement,
    definitions: Iterable[What] | None = None,
    *,
    null: str | None = None,
    empty: Evidence | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Verdicts:
    """The table of definitions over what was measured; `empty` is the same under the null.

    A measurement, loaded or merged, stands for evidence of full texts; a definition passes over
    places where its statistics were not taken.
    """
    if isinstance(evidence, Measurement):
        manifest = evidence.manifest if manifest is None else manifest
        evidence = Evidence({"full": evidence})
    if definitions is None:
        definitions = available()
    chosen = tuple(create(what) for what in definitions)
    expected: dict[tuple[str, str, str, int, int], float] = {}
    if empty is not None:
        expected = {_key(one): one.value for what in chosen for one in what.judge(empty)}
    entries = [
        replace(one, null=expected.get(_key(one)))
        for what in chosen
        for one in what.judge(evidence)
    ]
    return Verdicts(tuple(entries), chosen, null, manifest or {})


def _key(entry: Entry) -> tuple[str, str, str, int, int]:
    return entry.definition, entry.quantity, entry.site, entry.step, entry.layer


def _measured(
    view: Subject,
    rows: list[list[int]],
    plan: Needs,
    layers: int | Iterable[int] | None,
    null: str | None,
    seed: int,
    batch_size: int,
    progress: bool,
) -> tuple[Evidence, Evidence | None]:
    """What the definitions look at, and the same under the null."""
    steps = {i: (step.layer, step.part) for i, step in enumerate(view.plan)}
    chosen = numbers("layers", layers)
    found: dict[Context, Measurement] = {c: Measurement(kinds, steps) for c, kinds in plan.items()}
    permuted: Measurement | None = None
    if null == "permutation" and "full" in plan:
        both = nulls.WithPermutation(plan["full"], steps, seed)
        found["full"], permuted = both, both.permuted
    ids = sorted({token for row in rows for token in row})
    texts: dict[Context, list[list[int]]] = {
        "full": rows,
        "start": [row[:START] for row in rows],
        "alone": [[token] for token in ids],
    }
    for context, measurement in found.items():
        request = Request(tuple(plan[context]), chosen)
        size = ALONE_BATCH if context == "alone" else batch_size
        whole = context == "full"
        stream(view, texts[context], measurement, request, size, progress, check=whole)
    evidence = Evidence(found, view, [np.searchsorted(ids, row).tolist() for row in rows])
    if null is None or "full" not in found:
        return evidence, None
    if permuted is None:
        with torch.no_grad():
            permuted = nulls.gaussian(found["full"], null, seed)
    return evidence, Evidence({"full": permuted})
