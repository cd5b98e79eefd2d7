"""Wall time a token of every point, beside its score.

A sweep shares work between plans, so it cannot tell what one of them takes: each runs alone for a
moment, and what was timed is kept in the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b

from tqdm import tqdm

from laminogram.evaluate.ledger import Ledger
from laminogram.evaluate.timing import TIMES, TOKENS, Seconds
from laminogram.probe.manifest import plain
from laminogram.probe.subject import Subject
from laminogram.studies.painters.measures import PACE, Measure
from laminogram.studies.painters.points import Point

TOKENS_READ = TIMES * TOKENS
"""Tokens that timing one plan takes, at most."""


def pace(
    view: Subject, points: Sequence[Point], ledger: Ledger, *, progress: bool = True
) -> Measure:
    """Milliseconds a token of every point, of its first plan: one shuffle takes as long as another.

    What the ledger holds for this device is not measured again.
    """
    seconds, found = Seconds(), []
    for point in tqdm(
        points, desc="time", unit="plan", disable=None if progress else True, leave=False
    ):
        alone = view.using(plan=point.plans[0])
        facts = json.dumps(plain(alone.facts()) | {"measure": PACE.key}, sort_keys=True)
        key = blake2b(facts.encode(), digest_size=16).hexdigest()
        if ledger.result(key) is None:
            timed = {
                "plan": str(alone.plan),
                "measure": PACE.key,
                PACE.key: 1e3 * seconds.of(alone),
            }
            ledger.add_result(key, timed)
        known = ledger.result(key)
        assert known is not None
        found.append(float(known[PACE.key]))
    return Measure.bare(PACE, found)
