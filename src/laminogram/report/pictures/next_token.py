"""The next token as bars, and the text coloured by loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from laminogram.report.picture import Picture, packed, plain
from laminogram.studies.next_token import NextToken

RESULT = "NextToken"


def picture(result: NextToken) -> Picture:
    """Return the picture of a `studies.next_token.NextToken`."""
    data: dict[str, Any] = {
        "tokens": list(result.tokens),
        "tokenIds": list(result.token_ids),
        "loss": packed(result.loss),
        "ids": [int(one) for one in result.ids],
        "texts": list(result.texts),
        "probability": packed(result.probability),
        "entropy": float(result.entropy) if np.isfinite(result.entropy) else None,
        "temperature": float(result.temperature),
    }
    return Picture(
        kind="next_token",
        title="Next token",
        caption=(
            "How badly each token of the text was expected, and what the model expects after the "
            "last. Point at a token for its loss; click, or use the arrow keys, to choose one."
        ),
        alt=_alt(result),
        model=result.model,
        data=data,
        tables=result.tables(),
        tokens=result.tokens,
        manifest=result.manifest,
    )


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
