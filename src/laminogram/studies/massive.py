"""Massive activations: the few values that are thousands of times the median.

Axes: R rows (steps), T tokens, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from laminogram.errors import SiteError
from laminogram.probe.program import steps_of
from laminogram.probe.subject import Subject, Text
from laminogram.stack.sites import STACK_STEP, find
from laminogram.studies.pooling import strongest
from laminogram.studies.reading import (
    Tables,
    about,
    ids_of,
    names_of,
    read_one,
    step_labels,
    told_apart,
    walk,
    wide,
)

SURFACE_CHANNELS = 512
"""Columns of the surface, at most."""
THRESHOLD, RATIO = 100.0, 1000.0
TOPS = 3
DEFINITION = (
    "Sun et al. 2024: a value is massive where |x| is above 100 and at least 1000 times the median "
    "of |x| over the whole state of that row (tokens x channels)."
)


@dataclass(frozen=True, eq=False)
class Massive:
    """The largest values of each row, and one row's surface.

    top (R, 3) f32: largest |x|, descending; places (R, 3, 2): their token and channel; values
    (R, 3) f32: with their sign. median (R,) f32: of |x| over the row's whole state, T x C, as Sun
    et al. 2024 define it; token_median (R,) f32: of |x| over the channels of the token that holds
    the largest value, which other tools use and which can differ by orders of magnitude. massive
    (R,) bool: top-1 above 100 and at least 1000 times `median`. nonfinite (R,): values left out.

    surface (T, C') f32: row `surface_row` with sign, each column the value largest in size of
    `pooled` neighbouring channels; 1 where every channel stands.
    """

    model: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    labels: tuple[str, ...]
    site: str
    top: np.ndarray
    values: np.ndarray
    places: np.ndarray
    median: np.ndarray
    token_median: np.ndarray
    massive: np.ndarray
    nonfinite: np.ndarray
    surface: np.ndarray
    surface_row: int
    channels: int
    pooled: int
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def token_labels(self) -> tuple[str, ...]:
        """The tokens' texts, told apart by position where one occurs twice."""
        return told_apart(self.tokens)

    def tables(self) -> Tables:
        """`massive`: a row for each (row, rank 1 to 3); `massive-surface`: one for each token."""
        rows, tops = self.top.shape
        each = np.arange(rows).repeat(tops)
        tokens = self.places[..., 0].ravel()
        return {
            "massive": {
                "row": each,
                "label": [self.labels[i] for i in each],
                "rank": np.tile(np.arange(1, tops + 1), rows),
                "abs": self.top.ravel(),
                "value": self.values.ravel(),
                "token": tokens,
                "token_text": [self.tokens[t] if t >= 0 else None for t in tokens],
                "channel": self.places[..., 1].ravel(),
                "median": self.median[each],
                "token_median": self.token_median[each],
                "massive": self.massive[each],
                "nonfinite": self.nonfinite[each],
            },
            "massive-surface": {
                "token": np.arange(len(self.tokens)),
                "token_text": list(self.tokens),
                "values": self.surface,
            },
        }


def massive(
    view: Subject,
    text: Text,
    site: str = "resid_post",
    *,
    row: int | None = None,
    full: bool = False,
) -> Massive:
    """The largest values at a site of every step, and the surface of one.

    row: whose surface (None: the row of the largest value); full: every channel of it, however
    many. SiteError for a site without the axes token and channel, or a row that does not exist;
    TokenError for several texts, ConfigError for one beyond the context.
    """
    batch = read_one(view, text)
    steps = steps_of(site, view.config, view.plan)
    _check_axes(view, site, steps[0])
    count = batch.lengths[0]
    if row is not None and not 0 <= row < len(steps):
        raise SiteError(f"row {row} does not exist: {site} is at {len(steps)} steps of the plan")
    rows: list[dict[str, Any]] = []
    surface: list[tuple[int, np.ndarray]] = []

    def keep(name: str, step: int, x: Tensor) -> None:
        state = wide(x[0, :count]).cpu().numpy().reshape(count, -1)
        largest = max((one["top"][0] for one in rows), default=-1.0)
        rows.append(_largest(state))
        number = len(rows) - 1
        if number == row or (row is None and (rows[-1]["top"][0] > largest or not number)):
            surface[:] = [(number, state.copy())]

    walk(view, batch, dict.fromkeys(steps, (site,)), keep)
    shown, state = surface[0]
    channels = state.shape[1]
    pooled = 1 if full else -(-channels // SURFACE_CHANNELS)
    ids = ids_of(batch)
    columns = {key: np.array([one[key] for one in rows]) for key in rows[0]}
    return Massive(
        model=view.name,
        tokens=names_of(view, ids),
        token_ids=ids,
        labels=(site,) if steps[0] == STACK_STEP else step_labels(view.plan, steps),
        site=site,
        top=columns["top"].astype(np.float32),
        values=columns["values"].astype(np.float32),
        places=columns["places"],
        median=columns["median"].astype(np.float32),
        token_median=columns["token_median"].astype(np.float32),
        massive=(columns["top"][:, 0] > THRESHOLD)
        & (columns["top"][:, 0] >= RATIO * columns["median"]),
        nonfinite=columns["nonfinite"],
        surface=np.ascontiguousarray(strongest(state, pooled)[0], np.float32),
        surface_row=shown,
        channels=channels,
        pooled=pooled,
        manifest=about(view, "massive", [batch], site=site, surface_row=shown, pooled=pooled)
        | {"definition": DEFINITION},
    )


def _check_axes(view: Subject, site: str, step: int) -> None:
    """SiteError for a site whose values do not belong to one token and one channel each."""
    layer = None if step == STACK_STEP else view.plan.steps[step].layer
    axes = find(site, view.config, layer).axes
    if site in ("pattern", "state", "head_out", "logits"):
        raise SiteError(
            f"massive activations are looked for among channels; {site} has the axes "
            f"{' '.join(axes)}: name resid_post, ffn_out, ffn_act, ..."
        )


def _largest(state: np.ndarray) -> dict[str, Any]:
    """The statistics of one state (T, C); what is not finite is counted and left out."""
    finite = np.isfinite(state)
    magnitude = np.where(finite, np.abs(state), -1.0)
    flat = magnitude.ravel()
    count = min(TOPS, flat.size)
    # By size, ties by token and channel.
    likely = np.flatnonzero(flat >= np.partition(flat, -count)[-count])
    order = likely[np.argsort(-flat[likely], kind="stable")[:count]]
    top, values = np.full(TOPS, np.nan), np.full(TOPS, np.nan)
    places = np.full((TOPS, 2), -1)
    order = order[flat[order] >= 0]
    top[: len(order)], values[: len(order)] = flat[order], state.ravel()[order]
    places[: len(order)] = np.stack(np.unravel_index(order, state.shape), 1)
    token = np.abs(state[places[0, 0]])
    token = token[np.isfinite(token)]
    known = np.abs(state[finite])
    return {
        "top": top,
        "values": values,
        "places": places,
        "median": float(np.median(known)) if known.size else np.nan,
        "token_median": float(np.median(token)) if known.size else np.nan,
        "nonfinite": int(state.size - known.size),
    }
