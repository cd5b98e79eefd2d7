"""From the curves of `recover.py` to gaps and numbers of steps, with intervals over books.

A gap is the loss of a variant less that of the full plan trained as long with the same seed, book
by book. A variant has recovered at the first step from which on its gap stays within a margin, in
nats or as a share of the gap that it began with. The full plan too may win or lose by training:
its own losses stand beside the gaps, and so does how far the variant ends above the model as it was
before any training.

Axes: S seeds, B books, T steps at which losses were taken, D resampled sets of books.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MARGINS = (0.1, 0.05)
"""Nats a token within which a variant counts as recovered."""
LEFT = (0.5, 0.25)
"""Shares of the first gap, for variants that come near no margin."""
DRAWS = 2000
Row = dict[str, Any]


def recoveries(rows: Sequence[Row]) -> list[Row]:
    """A line for each variant and middle of each model, out of the rows of `recover.py`."""
    by_plan: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda one: one["key"][-1]):
        by_plan.setdefault(tuple(row["key"][:-1]), []).append(row)
    full = {key[0]: found for key, found in by_plan.items() if key[1] == "full"}
    return [
        _recovery(key, found, full[key[0]]) for key, found in by_plan.items() if key[1] != "full"
    ]


def _recovery(key: tuple[Any, ...], rows: Sequence[Row], full: Sequence[Row]) -> Row:
    model, variant, affected, plan = key
    known = {row["key"][-1]: row for row in full}
    controls = np.array([_losses(known[row["key"][-1]]) for row in rows])  # S B T
    losses = np.array([_losses(row) for row in rows])
    gaps = losses - controls
    steps = [step for step, _ in rows[0]["curve"]]
    drawn = _resampled(gaps.mean(0))  # D T
    found: Row = {"model": model, "variant": variant, "affected": affected, "plan": plan}
    found |= {"rate": rows[0]["rate"], "full_rate": full[0]["rate"], "seeds": len(rows)}
    found["tokens_a_step"] = rows[0]["rows"] * rows[0]["tokens"]
    of_seeds, mean = gaps.mean(1), gaps.mean((0, 1))[None]
    for margin in MARGINS:
        found |= _steps(f"steps_{margin}", [mean, drawn, of_seeds], steps, margin)
    for left in LEFT:
        shares = [one / one[:, :1] for one in (mean, drawn, of_seeds)]
        found |= _steps(f"left_{left}", shares, steps, left)
    since = losses[..., -1:] - controls[..., :1]  # S B 1
    found |= _estimate("above_untouched", since.mean(0), _resampled(since.mean(0)))
    for place, step in enumerate(steps):
        found[f"full_{step}"] = f"{controls[..., place].mean():.4f}"
        found |= _estimate(f"gap_{step}", gaps[..., place].mean(0), drawn[:, place])
    return found


def _estimate(name: str, of_books: np.ndarray, drawn: np.ndarray) -> Row:
    """A mean over books with its interval."""
    numbers = (of_books.mean(), *np.quantile(drawn, (0.025, 0.975)))
    ends = ("", "_low", "_high")
    return {f"{name}{end}": f"{number:.4f}" for end, number in zip(ends, numbers, strict=True)}


def _steps(name: str, of: Sequence[np.ndarray], steps: Sequence[int], margin: float) -> Row:
    """When the mean, 95 per cent of the resampled sets, and each seed are within a margin."""
    (mean,), drawn, seeds = (_within(one, steps, margin) for one in of)
    low, high = np.quantile(drawn, (0.025, 0.975), method="nearest")
    by_seed = "/".join(f"{one:g}" for one in seeds)
    return {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_seeds": by_seed}


def _losses(row: Row) -> np.ndarray:
    """(B, T)."""
    return np.array([losses for _, losses in row["curve"]]).T


def _resampled(of_books: np.ndarray) -> np.ndarray:
    """Means (D, T) of books drawn with replacement, from (B, T)."""
    books = len(of_books)
    weights = np.random.default_rng(0).multinomial(books, [1 / books] * books, size=DRAWS)
    means: np.ndarray = weights @ of_books / books
    return means


def _within(gaps: np.ndarray, steps: Sequence[int], margin: float) -> np.ndarray:
    """From gaps (D, T) the first step from which on each stays within the margin; else infinity."""
    stays = np.logical_and.accumulate((gaps <= margin)[:, ::-1], axis=1)[:, ::-1]
    found: np.ndarray = np.where(stays.any(1), np.take(steps, stays.argmax(1)), np.inf)
    return found
