"""Rounding in another basis: the stream turned by a random rotation before weights and inputs are
rounded, beside the same rounding without it.

    python experiments/outliers/rotations.py --models DIR --corpus DIR --out DIR

Writes `rotations/MODEL@books.json` below `--out`: KL against fp32 of every format, as it is and
after each of three rotations. A rotation keeps the function (`fp32` shows by how much) and takes
the largest channels apart. RWKV-4 cannot be rotated, for its token shift has a weight for each
channel; its plain formats are there to compare.
"""

from __future__ import annotations

from typing import Any

from common import Rows, arguments, inputs, load, once, runs, zoo

from laminogram import edits
from laminogram.errors import EditError
from laminogram.evaluate.divergence import divergence
from laminogram.view import View

FORMATS = ("fp32", "int8", "w8a8", "w8a8-per-tensor", "int4-g8")
ROTATIONS = (0, 1, 2)
ROWS, WIDTH = 6, 128


def main() -> None:
    """Command line: see the top of the file."""
    args = arguments(__doc__)
    rows = [row[:WIDTH] for row in inputs(args.corpus, ("books",))["books"][:ROWS]]
    for name in args.only or [*zoo(), *runs()]:
        file = args.out / "rotations" / f"{name}@books.json"
        once(file, lambda name=name: rounded(load(args.models, name), rows))


def rounded(view: View, rows: Rows) -> dict[str, Any]:
    """KL(fp32 || format) with its interval, by `FORMAT@BASIS`."""
    bases = {"own": view}
    try:
        bases |= {f"r{n}": view.using(edits=edits.weights.rotate(seed=n)) for n in ROTATIONS}
    except EditError as error:
        print(f"{view.name}: {error}")
    found = {}
    for basis, base in bases.items():
        for name in FORMATS:
            if (basis, name) != ("own", "fp32"):
                kl = divergence(view, base.using(precision=name), rows).estimate("kl")
                found[f"{name}@{basis}"] = [kl.value, kl.low, kl.high]
    return found


if __name__ == "__main__":
    main()
