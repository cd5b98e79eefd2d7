"""What a precision changes in what a model predicts, and in its histograms of |x|.

    python experiments/outliers/precisions.py --models DIR --corpus DIR --out DIR

Writes `precisions/MODEL@INPUT.json` below `--out`: KL both ways against fp32, agreement, loss, with
intervals from resampled documents, and how far the histograms at `ffn_out` and `resid_post` moved
beside the split-half null. Books for every model, the other inputs for the first seed.
"""

from __future__ import annotations

from typing import Any

from common import Rows, arguments, inputs, load, once, runs
from sizes import SEEDS

from laminogram.studies.precision import precision
from laminogram.view import View

FORMATS = ("bf16", "fp16", "int8", "w8a8", "llm.int8", "int4-g8", "fp8")
ROWS, WIDTH = 6, 128
KEPT = ("kl", "kl_reverse", "agreement", "log_ratio")


def main() -> None:
    """Command line: see the top of the file."""
    args = arguments(__doc__)
    texts = inputs(args.corpus)
    asked = [(name, "books") for seed in SEEDS for name in runs((seed,))]
    asked += [(name, of) for of in texts if of != "books" for name in runs(seeds=(1,))]
    for name, of in asked:
        if not args.only or name in args.only:
            rows = [row[:WIDTH] for row in texts[of][:ROWS]]
            file = args.out / "precisions" / f"{name}@{of}.json"
            once(file, lambda name=name, rows=rows: compared(load(args.models, name), rows))


def compared(view: View, rows: Rows) -> dict[str, Any]:
    """The outputs of each format, and the histograms' divergences by site and layer."""
    found = precision(view, rows, FORMATS, new_tokens=0, progress=False)
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
