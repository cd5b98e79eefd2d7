"""What a precision changes in what a model predicts, and in its histograms of |x|.

    python experiments/outliers/precisions.py --models DIR --corpus DIR --out DIR

Writes `precisions/MODEL@INPUT.json` below `--out` for every model, the pair of the zoo and all four
inputs: KL both ways against fp32, agreement, loss, with intervals from resampled documents, and on
the books how far the histograms at `ffn_out` and `resid_post` moved beside the split-half null.
"""

from __future__ import annotations

from typing import Any

from common import Rows, arguments, inputs, load, once, runs, zoo
from sizes import SEEDS

from laminogram.studies.precision import precision
from laminogram.view import View

FORMATS = ("bf16", "int8", "w8a8", "llm.int8", "int4-g8", "fp8")
ON_BOOKS = (*FORMATS, "fp16")  # a processor without products in fp16 is slow at them
SITES = ("ffn_out", "resid_post")
ROWS, WIDTH = 6, 128
KEPT = ("kl", "kl_reverse", "agreement", "log_ratio")


def main() -> None:
    """Command line: see the top of the file."""
    args = arguments(__doc__)
    texts = inputs(args.corpus)
    names = args.only or [name for seed in SEEDS for name in runs((seed,))] + zoo()
    for name in names:
        for of, found in texts.items():
            rows = [row[:WIDTH] for row in found[:ROWS]]
            books = of == "books"
            formats, sites = (ON_BOOKS, SITES) if books else (FORMATS, ())
            once(
                args.out / "precisions" / f"{name}@{of}.json",
                lambda name=name, rows=rows, formats=formats, sites=sites: compared(
                    load(args.models, name), rows, formats, sites
                ),
            )


def compared(
    view: View, rows: Rows, formats: tuple[str, ...], sites: tuple[str, ...]
) -> dict[str, Any]:
    """The outputs of each format, and the histograms' divergences by site and layer."""
    found = precision(view, rows, formats, sites=sites, new_tokens=0, progress=False)
    table = found.tables()["precision-outputs"]
    columns = [f"{name}{end}" for name in KEPT for end in ("", "_low", "_high")]
    outputs = {
        name: {column: table[column][at] for column in (*columns, "kl_q999", "kl_max")}
        for at, name in enumerate(table["precision"])
    }
    shifts = [
        [one.precision, one.site, one.layer, one.jsd, one.null, one.crossed] for one in found.shifts
    ]
    return {"layers": view.config.num_layers, "outputs": outputs, "shifts": shifts}


if __name__ == "__main__":
    main()
