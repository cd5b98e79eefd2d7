"""Wall time a token: what only the first forward of a process pays for is no plan's time."""

from __future__ import annotations

import laminogram
from laminogram.evaluate import timing


def test_what_the_first_forward_makes_ready_is_not_timed(monkeypatch):
    """numba alone takes a second to import, which would be told as the time of the full model."""
    spent = iter([5.0, 0.3, 0.1, 0.2, 0.4, 0.5, 0.6])
    monkeypatch.setattr(timing, "_once", lambda view, batch: next(spent))
    view = laminogram.load("tiny-llama")
    seconds = timing.Seconds()
    assert seconds.of(view) == 0.1 / timing.TOKENS
    assert seconds.of(view.using(plan="0-3")) == 0.4 / timing.TOKENS
    assert seconds.of(view) == 0.1 / timing.TOKENS
