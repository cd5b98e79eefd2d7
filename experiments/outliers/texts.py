"""Where free texts part: two precisions that continue the same beginning with the same draws.

    python experiments/outliers/texts.py --models DIR --corpus DIR --out DIR

Writes `texts/MODEL@books.json` below `--out`: from 16 tokens of twelve books up to 64 more,
greedily and with three draws at temperature 1, and how many tokens are equal before the first that
differs.
"""

from __future__ import annotations

from typing import Any

from common import Rows, arguments, inputs, load, once, runs, zoo

from laminogram.studies.precision import precision
from laminogram.view import View

FORMATS = ("int8", "w8a8", "int4-g8")
ROWS, PROMPT, NEW = 12, 16, 64
WAYS = {"greedy": 0.0, "sampled": 1.0}
KEPT = ("same", "same_low", "same_high", "equal", "equal_low", "equal_high", "length_reference")


def main() -> None:
    """Command line: see the top of the file."""
    args = arguments(__doc__)
    rows = [row[: PROMPT + 2] for row in inputs(args.corpus, ("books",))["books"][:ROWS]]
    for name in args.only or [*zoo(), *runs()]:
        file = args.out / "texts" / f"{name}@books.json"
        once(file, lambda name=name: continued(load(args.models, name), rows))


def continued(view: View, rows: Rows) -> dict[str, Any]:
    """By way and format: the tokens before the first difference, and the texts that are equal."""
    found: dict[str, Any] = {}
    for way, temperature in WAYS.items():
        table = precision(
            view,
            rows,
            FORMATS,
            sites=(),
            seeds=range(3),
            prompt_tokens=PROMPT,
            new_tokens=NEW,
            temperature=temperature,
            batch_size=ROWS,
            progress=False,
        ).tables()["precision-texts-summary"]
        for at, name in enumerate(table["precision"]):
            found[f"{way}@{name}"] = {column: table[column][at] for column in KEPT}
    return found


if __name__ == "__main__":
    main()
