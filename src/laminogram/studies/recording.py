"""From a gram to what a study keeps of one model: values, tokens, statistics, losses.

Nothing here runs a model, so a study can be rebuilt from saved grams, and tested without any.
Axes: L layers, T tokens, C channels. A site with more axes than one a token, such as heads x head
size, is flattened: its last axis runs fastest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from laminogram.errors import ConfigError
from laminogram.studies.card import card_data
from laminogram.studies.layer_statistics import Peak, largest_channels, statistics_by_tokens
from laminogram.studies.lockstep import character_spans

NO_LAYER = -1
"""The layer of a row that belongs to the whole model, such as `embed` or `final`."""


@dataclass(frozen=True)
class Reading:
    """How well a model predicts the prompt: natural-log losses of its tokens after the first."""

    losses: npt.NDArray[np.float64]
    """(T-1,) nats; entry t is the loss of token t+1 given the tokens before it."""
    predicted_bytes: int | None
    """UTF-8 bytes of the text those tokens cover; None where token texts are unknown."""

    @property
    def nats_per_token(self) -> float:
        """Mean loss in nats."""
        return float(self.losses.mean()) if self.losses.size else math.nan

    @property
    def perplexity(self) -> float:
        """exp(mean loss), infinite where that overflows; per token, so tokenizers differ in it."""
        mean = self.nats_per_token
        return math.exp(mean) if mean < 700 else math.inf if mean >= 700 else math.nan

    @property
    def bits_per_byte(self) -> float | None:
        """Total loss in bits over the bytes predicted: comparable between tokenizers."""
        if not self.predicted_bytes or not self.losses.size:
            return None
        return float(self.losses.sum()) / math.log(2) / self.predicted_bytes


@dataclass(frozen=True)
class ModelRecord:
    """One model on one text: everything that the pages and tables are made from."""

    name: str
    card: dict[str, Any]
    site: str
    values: npt.NDArray[np.float32]
    """(L, T, C): the site at every step, for the real tokens only."""
    rows: tuple[tuple[int, int, str], ...]
    """(step, layer, part) of each entry of the first axis."""
    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...] | None
    spans: tuple[tuple[int, int], ...] | None
    prompt_length: int
    starts_with_bos: bool
    statistics: dict[str, dict[str, npt.NDArray[np.float64]]]
    peaks: tuple[Peak, ...]
    reading: Reading | None
    manifest: dict[str, Any] = field(default_factory=dict)
    channel_axes: tuple[tuple[str, int], ...] = ()
    """What the channels were flattened from, such as (("H", 8), ("D", 64)); empty where nothing
    was: then a channel is a channel of the site."""

    @property
    def prompt_texts(self) -> tuple[str, ...] | None:
        """The texts of the tokens that were given, without those that were generated."""
        return None if self.token_texts is None else self.token_texts[: self.prompt_length]

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each row: the layer, with the step where a plan runs it more than once."""
        times = Counter(layer for _, layer, _ in self.rows)
        return tuple(
            self.site
            if layer == NO_LAYER
            else str(layer)
            if times[layer] == 1
            else f"{layer} (step {step})"
            for step, layer, _ in self.rows
        )


def record_from_gram(
    gram: Any,
    *,
    name: str,
    card: Any,
    text: str,
    site: str = "ffn_out",
    losses: Sequence[float] | npt.NDArray[np.floating] | None = None,
    bos_token_id: int | None = None,
    prompt_length: int | None = None,
) -> ModelRecord:
    """Build a `ModelRecord` from the first row of a gram.

    `gram` needs `[site]` of shape (step, 1, T, ...), `axes(site)`, `tokens`, `mask`,
    `token_texts`, `steps`, `step_layers`, `prompt_lengths` and
    `manifest`. `losses` are nats per predicted token of the prompt, (prompt length - 1,), or None
    where the model does not predict the next token.
    `prompt_length` replaces the gram's own where the tokens after it were given too.
    Raises `ConfigError` when the gram holds no real token, and for a site that is not of the form
    (token, channels...).
    """
    values, channel_axes = _channels(gram, site)
    real = np.flatnonzero(np.asarray(gram.mask)[0])
    if not real.size:
        raise ConfigError(f"{name} was given no token: the text is empty")
    values = np.ascontiguousarray(values[:, 0, real])
    ids = tuple(int(i) for i in np.asarray(gram.tokens)[0, real])
    pieces = _pieces(gram, real)
    spans = tuple(character_spans(pieces, text)) if pieces else None
    given = int(np.asarray(gram.prompt_lengths)[0]) if prompt_length is None else prompt_length
    return ModelRecord(
        name=name,
        card=card_data(card),
        site=site,
        values=values,
        rows=_rows(gram, values.shape[0]),
        token_ids=ids,
        token_texts=pieces,
        spans=spans,
        prompt_length=given,
        starts_with_bos=bos_token_id is not None and ids[0] == bos_token_id,
        statistics=statistics_by_tokens(values),
        peaks=tuple(largest_channels(values)),
        reading=_reading(losses, spans, text, given),
        manifest=dict(gram.manifest),
        channel_axes=channel_axes,
    )


def _channels(gram: Any, site: str) -> tuple[npt.NDArray[np.float32], tuple[tuple[str, int], ...]]:
    """Return the site as (step, B, T, C), and what C was flattened from where it was."""
    axes = tuple(gram.axes(site))
    own = axes[2:]
    if axes[:2] != ("B", "T") or not own or "S" in own:
        raise ConfigError(
            f"an EEG draws sites whose axes begin with tokens and go on with channels (B T C, "
            f"B T H D, ...); {site} has the axes {' '.join(axes)}"
        )
    values = np.asarray(gram[site], dtype=np.float32)
    if len(own) == 1:
        return values, ()
    sizes = tuple(zip(own, map(int, values.shape[3:]), strict=True))
    return values.reshape(*values.shape[:3], -1), sizes


def _pieces(gram: Any, real: npt.NDArray[np.intp]) -> tuple[str, ...] | None:
    texts = gram.token_texts
    if texts is None or texts[0] is None:
        return None
    row = list(texts[0])
    # A gram may name the real tokens only, or every column with its pads.
    return tuple(row if len(row) == real.size else (row[int(i)] for i in real))


def _rows(gram: Any, count: int) -> tuple[tuple[int, int, str], ...]:
    step_layers: Mapping[int, tuple[int, str]] = gram.step_layers
    steps = [int(step) for step in gram.steps]
    if len(steps) != count:
        raise ConfigError(f"the gram names {len(steps)} steps for {count} recorded ones")
    whole = (NO_LAYER, "model")
    layers = [step_layers[step] if step >= 0 else whole for step in steps]
    return tuple(
        (step, int(layer), str(part)) for step, (layer, part) in zip(steps, layers, strict=True)
    )


def _reading(
    losses: Sequence[float] | npt.NDArray[np.floating] | None,
    spans: Sequence[tuple[int, int]] | None,
    text: str,
    prompt_length: int,
) -> Reading | None:
    if losses is None or prompt_length < 2:
        return None
    array = np.asarray(losses, dtype=np.float64)[: prompt_length - 1]
    if spans is None:
        return Reading(array, None)
    return Reading(array, len(text[spans[0][1] :].encode("utf-8", "replace")))
