"""The lens as a picture: a table of layers and tokens, and how an answer forms."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.report.figures import number, token_names
from laminogram.report.picture import Picture, dictionary, packed, plain
from laminogram.studies.lens import Lens

RESULT = "Lens"


def picture(result: Lens) -> Picture:
    """Return the picture of a `studies.lens.Lens`."""
    words, places = dictionary(result.top_ids, result.top_texts)
    data: dict[str, Any] = {
        "tokenIds": list(result.token_ids),
        "names": token_names(result.tokens),
        "modes": _modes(result),
        "words": words,
        "top": packed(places),
        "topProbability": packed(result.top_probability),
        "entropy": packed(result.entropy),
        "kl": packed(result.kl),
        "rank": packed(result.rank),
        "probability": packed(result.probability),
        "nextRank": packed(result.next_rank),
        "nextProbability": packed(result.next_probability),
        "chosen": [
            {
                "id": int(one),
                "text": result.chosen_texts.get(one, str(one)),
                "rank": packed(rank),
                "probability": packed(probability),
            }
            for one, (rank, probability) in result.chosen.items()
        ],
    }
    return Picture.of(
        result,
        kind="lens",
        title="Lens",
        caption=(
            "What the model would say next if it stopped at each layer: the state after every row "
            "goes through the final norm and the head. The last row is the model’s own answer. "
            "Point at a cell for its likeliest tokens; click, or use the arrow keys, to choose "
            "a token and follow how its answer forms."
        ),
        alt=_alt(result),
        data=data,
        notes=_notes(result),
    )


def _modes(result: Lens) -> list[dict[str, Any]]:
    """What the cells can be coloured by: `says`, `ticks` (place, text), and the `end` of a scale.

    viewer/lens.js holds the place of each value; the ticks are its inverse.
    """
    nats = float(np.log(result.vocabulary)) or 1.0
    far, worst = _largest(result.kl, 1.0), max(2.0, _largest(result.rank, 2.0))
    roots = (0.0, 1.0, 0.3, 0.1, 0.6, 0.01)
    even = (0.0, 1.0, 0.5, 0.25, 0.75)
    return [
        {
            "name": "probability",
            "end": 1,
            "says": "probability of the token written in the cell, on a square-root scale",
            "ticks": [(p**0.5, number(p)) for p in roots],
        },
        {
            "name": "entropy",
            "end": nats,
            "says": (
                "entropy in nats; it ends where every token of the vocabulary is equally likely"
            ),
            "ticks": [(p, number(p * nats, 2)) for p in even],
        },
        {
            "name": "KL",
            "end": far,
            "says": (
                "Kullback-Leibler divergence in nats of the last row from this one, on a "
                "square-root scale"
            ),
            "ticks": [(p**0.5, number(p * far, 2)) for p in (0.0, 1.0, 0.3, 0.1, 0.6)],
        },
        {
            "name": "rank",
            "end": worst,
            "says": "rank of the token that the last row finds likeliest; 1 is the first place",
            "ticks": [(p, number(round(worst ** (1 - p)), 3)) for p in even],
        },
    ]


def _largest(values: Any, otherwise: float) -> float:
    """The largest finite value above zero, else the other one."""
    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found) & (found > 0)]
    return float(found.max()) if found.size else otherwise


def _alt(result: Lens) -> str:
    rows, count, _ = result.top_ids.shape
    last, row = count - 1, rows - 1
    final = result.top_texts[row][last][0]
    at = np.flatnonzero(result.rank[:, last] != 1)
    settled = result.labels[int(at[-1]) + 1] if at.size and at[-1] < row else result.labels[0]
    return (
        f"A table of {rows} rows and {count} tokens. After the last token the model answers "
        f"{plain(final)} with probability {result.top_probability[row, last, 0]:.3g}; that token "
        f"stands first from row {settled} on. Mean entropy falls from "
        f"{float(np.mean(result.entropy[0])):.3g} nats in row {result.labels[0]} to "
        f"{float(np.mean(result.entropy[row])):.3g} in the last."
    )


def _notes(result: Lens) -> tuple[str, ...]:
    said = (
        "Ranks and probabilities are over the whole vocabulary of "
        f"{result.vocabulary:,} tokens. Tokens that occur more than once carry their position. "
        "An early layer’s state is not made for the head, so what it says there is a reading of "
        "it, not a belief of the model (the logit lens)."
    )
    return (said,)
