"""The next token as bars, and the text coloured by loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.report.figures import number, quoted
from laminogram.report.page_data import plain_number
from laminogram.report.picture import Picture, packed, plain
from laminogram.studies.next_token import NextToken

RESULT = "NextToken"


def picture(result: NextToken) -> Picture:
    """Return the picture of a `studies.next_token.NextToken`."""
    finite = result.loss[np.isfinite(result.loss)]
    mean = float(finite.mean()) if finite.size else float("nan")
    told = [
        f"id {one}: loss {number(loss)} nats, probability {number(float(np.exp(-loss)), 3)}"
        for one, loss in zip(result.token_ids[1:], result.loss.tolist(), strict=True)
    ]
    warm = "" if result.temperature == 1 else f", at temperature {number(result.temperature)}"
    data: dict[str, Any] = {
        "loss": packed(result.loss),
        "top": max(1.0, float(np.ceil(finite.max()))) if finite.size else 1.0,
        "said": [f"id {result.token_ids[0]}: no loss, nothing stands before it", *told],
        "summary": f"{finite.size} tokens predicted, mean loss {number(mean)} nats.",
        "candidates": [
            {
                "name": quoted(text),
                "title": f"id {one}",
                "part": plain_number(float(p)),
                "text": number(float(p), 3),
            }
            for one, text, p in zip(result.ids, result.texts, result.probability, strict=True)
        ],
        "about": f"Entropy of the whole distribution {number(result.entropy, 3)} nats{warm}.",
    }
    return Picture.of(
        result,
        kind="next_token",
        title="Next token",
        caption=(
            "How badly each token of the text was expected, and what the model expects after the "
            "last. Point at a token for its loss; click, or use the arrow keys, to choose one."
        ),
        alt=_alt(result),
        data=data,
        csv=_csv(result),
    )


def _csv(result: NextToken) -> list[list[Any]]:
    rows: list[list[Any]] = [["what", "position", "id", "text", "loss_nats", "probability"]]
    losses = [None, *(plain_number(float(loss)) for loss in result.loss)]
    for position, (one, text) in enumerate(zip(result.token_ids, result.tokens, strict=True)):
        rows.append(["text", position, int(one), text, losses[position], None])
    for rank, (one, text) in enumerate(zip(result.ids, result.texts, strict=True), 1):
        rows.append(["next", rank, int(one), text, None, float(result.probability[rank - 1])])
    return rows


def _alt(result: NextToken) -> str:
    said = f"A text of {len(result.tokens)} tokens."
    finite = np.isfinite(result.loss)
    if finite.any():
        worst = int(np.nanargmax(np.where(finite, result.loss, -np.inf)))
        said += (
            f" Mean loss {float(result.loss[finite].mean()):.3g} nats; the least expected token "
            f"is {plain(result.tokens[worst + 1])} at {worst + 1} ({result.loss[worst]:.3g} nats)."
        )
    if len(result.texts):
        said += (
            f" The likeliest next token is {plain(result.texts[0])} "
            f"(probability {result.probability[0]:.3g})."
        )
    return said
