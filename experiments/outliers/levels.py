"""How large outliers are, by size, family, input, layer and site; and how values disperse.

    python experiments/outliers/levels.py --models DIR --corpus DIR --out DIR

Writes `levels/MODEL@INPUT.json` below `--out`: for every site and layer each quantity with its
interval from resampled documents. What is there already is left alone.
"""

from __future__ import annotations

from typing import Any

from common import INPUTS, Rows, arguments, inputs, load, once, runs, zoo

from laminogram import outliers
from laminogram.view import View

DEFINITIONS = (
    "massive_activations",
    "massive_tokens",
    "channel_kurtosis",
    "max_median_ratio",
    "dispersion",
)
SITES = ("ffn_out", "attn_out", "resid_post")


def main() -> None:
    """Command line: see the top of the file."""
    args = arguments(__doc__)
    texts = inputs(args.corpus)
    asked = [(name, of) for of in INPUTS for name in args.only or [*runs(), *zoo()]]
    for name, of in asked:
        file = args.out / "levels" / f"{name}@{of}.json"
        rows = texts[of]
        once(file, lambda name=name, rows=rows: measured(load(args.models, name), rows))


def measured(view: View, rows: Rows | list[str]) -> dict[str, Any]:
    """Every quantity at every site and layer: [site, layer, name, value, low, high]."""
    found = outliers.verdicts(view, rows, DEFINITIONS, SITES, null=None, progress=False)
    entries = [
        [one.site, one.layer, f"{one.definition}.{one.quantity}", one.value, one.low, one.high]
        for one in found.entries
        if one.site in SITES
    ]
    return {"layers": view.config.num_layers, "channels": view.config.hidden_size, "rows": entries}


if __name__ == "__main__":
    main()
