"""Every plan over every batch, kept as it comes, so that a run that was killed goes on.

What an answer belongs to: the weights' hash, the plan, the edits, the precision, how keys and
values are kept, and the batch's own hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from tqdm import tqdm

from laminogram.evaluate.ledger import Ledger
from laminogram.plans import Plan
from laminogram.plans.tree import PlanTree
from laminogram.probe.manifest import plain
from laminogram.probe.program import Effects, check_effects, total_effects
from laminogram.probe.subject import Subject
from laminogram.studies.painters.scorers import Read, Scorer


def keys(view: Subject, scorer: Scorer, plans: Sequence[Plan]) -> list[str]:
    """What the results of each plan belong to, in a word each."""
    facts = plain(view.facts())
    for name in ("model", "device"):  # the weights' hash says more than their name
        facts.pop(name)
    facts |= {"measure": scorer.measure, "batches": [one.hash for one in scorer.batches]}
    texts = (json.dumps(facts | {"plan": str(plan)}, sort_keys=True) for plan in plans)
    return [blake2b(text.encode(), digest_size=16).hexdigest() for text in texts]


def open_reads(ledger: Ledger, scorer: Scorer, names: Sequence[str]) -> dict[str, list[int]]:
    """By batch the numbers of the plans that have not read it."""
    unfinished = [i for i, name in enumerate(names) if ledger.result(name) is None]
    return {
        one.hash: [i for i in unfinished if ledger.answers(names[i], one.hash) is None]
        for one in scorer.batches
    }


def sweep(
    view: Subject,
    scorer: Scorer,
    plans: Sequence[Plan],
    units: int,
    ledger: Ledger,
    *,
    progress: bool = True,
) -> np.ndarray:
    """Sums (plans, units, columns) of a scorer; what the ledger holds is not computed again."""
    names = keys(view, scorer, plans)
    waiting = open_reads(ledger, scorer, names)
    done: Effects = []
    total = sum(map(len, waiting.values()))
    with tqdm(total=total, desc="text", unit="plan", disable=None if progress else True) as bar:
        for batch in scorer.batches:
            numbers = waiting[batch.hash]
            if not numbers:
                continue
            tree = PlanTree(plans[i] for i in numbers)
            effects: Effects = []
            found = scorer.score(view, tree, batch, effects)
            for place, rows in list(found) if view.edits else found:  # counts come at the end
                kept = total_effects(effects)
                ledger.add_answers(names[numbers[place]], batch.hash, rows, kept)
                bar.update()
    for batch in scorer.batches:  # each plan has the counts of all that were read together
        known = (ledger.effects(name, batch.hash) for name in names)
        done += next(filter(None, known), [])
    check_effects(done)
    for name, plan in zip(names, plans, strict=True):
        if ledger.result(name) is None:
            sums = _summed(scorer.batches, units, ledger, name)
            facts: Mapping[str, Any] = {"plan": str(plan), "measure": scorer.measure}
            ledger.add_result(name, {**facts, "sums": sums.tolist()})
    ledger.close()
    results = [ledger.result(name) for name in names]
    return np.array([one["sums"] for one in results if one is not None])


def _summed(batches: Sequence[Read], units: int, ledger: Ledger, name: str) -> np.ndarray:
    """From rows of batches to units (U, columns)."""
    parts = [np.array(ledger.answers(name, one.hash), dtype=np.float64) for one in batches]
    sums = np.zeros((units, parts[0].shape[1]))
    for batch, rows in zip(batches, parts, strict=True):
        np.add.at(sums, list(batch.owners), rows)
    return sums
