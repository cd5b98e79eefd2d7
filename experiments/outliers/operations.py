"""What removing outliers does, by layer and size, beside controls, and clipping their peaks.

    python experiments/outliers/operations.py --models DIR --corpus DIR --out DIR

Writes `operations/MODEL@lLAYER.json` below `--out`, for the first seed. The outlier of a layer is
the channel of the stream after it with the largest rms on other text; the scalar is that channel at
the token where it is largest, each document's own. A rule with a fixed number of sigmas selects
nothing in a narrow model: of 32 channels none can lie 6 standard deviations above their mean. Here
`clip` holds |x| to its 99.9 % quantile in other texts; for a lower bound see `clipping.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import Rows, arguments, inputs, load, once, runs

from laminogram.studies.operation_targets import Target, controls
from laminogram.studies.operations import operate
from laminogram.view import View

SITE = "resid_post"
ROWS, WIDTH = 6, 64
PLACES = (0.5, 0.75)  # of the depth
DRAWS = 10  # random channels in place of the outlier, where it is zeroed


def main() -> None:
    """Command line: see the top of the file."""
    args = arguments(__doc__)
    rows = [row[:WIDTH] for row in inputs(args.corpus, ("books",))["books"]]
    texts, other = rows[:ROWS], rows[ROWS : 2 * ROWS]
    names = args.only or runs(seeds=(1,))
    views = {name: load(args.models, name) for name in names}
    for place in PLACES:
        for name, view in views.items():
            layer = int(place * view.config.num_layers)
            file = args.out / "operations" / f"{name}@l{layer}.json"
            once(file, lambda at=layer, view=view: operated(view, texts, other, at))


def operated(view: View, texts: Rows, other: Rows, layer: int) -> dict[str, Any]:
    """The tables of the operations on the channel, on the scalar, and of the controls."""
    channel = Target("channel", SITE, (layer,), (largest_channel(view, other, layer),))
    scalar = Target("scalar", SITE, (layer,), channel.channels, _peaks(view, texts, channel))
    beside = controls(view, texts, channel, draws=DRAWS)
    like = [one for one in beside if one.role == "norm"]
    asked = (
        ([channel, *beside], ("zero",)),
        ([channel, *like], ("clip",)),
        ([scalar, *controls(view, texts, scalar, draws=2)], ("zero",)),
    )
    tables: list[dict[str, Any]] = []
    for targets, names in asked:
        found = operate(
            view, texts, targets, names, calibration=other, sinks=False, progress=False
        ).tables()
        kept = {name: found[name] for name in ("operations", "operations-controls")}
        tables.append(plain(kept | {"regrowth": of_outlier(found["operations-regrowth"])}))
    return {
        "layer": layer,
        "layers": view.config.num_layers,
        "channel": channel.channels[0],
        "peaks": scalar.positions,
        "tables": tables,
    }


def _stream(view: View, rows: Rows, layer: int) -> np.ndarray:
    """The stream after a layer (B, T, C)."""
    gram = view.record(rows, sites=SITE, layers=layer)
    return np.asarray(gram[SITE, layer], dtype=np.float64)


def largest_channel(view: View, rows: Rows, layer: int) -> int:
    return int((_stream(view, rows, layer) ** 2).mean((0, 1)).argmax())


def _peaks(view: View, rows: Rows, target: Target) -> tuple[tuple[int, ...], ...]:
    size = np.abs(_stream(view, rows, target.layers[0])[..., target.channels[0]])
    return tuple((int(at),) for at in size.argmax(1))


def of_outlier(table: dict[str, Any]) -> dict[str, Any]:
    """The lines of the outlier itself, not those of controls."""
    chosen = [n for n, name in enumerate(table["target"]) if ":" not in name]
    kept = ("target", "operation", "layer", "ratio", "ratio_low", "ratio_high")
    return {name: [table[name][n] for n in chosen] for name in kept}


def plain(tables: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {column: np.asarray(values).tolist() for column, values in table.items()}
        for name, table in tables.items()
    }


if __name__ == "__main__":
    main()
