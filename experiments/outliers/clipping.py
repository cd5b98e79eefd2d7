"""What clipping and normalising the largest channel does, by layer and size, beside controls.

    python experiments/outliers/clipping.py --models DIR --corpus DIR --out DIR

Writes `clipping/MODEL@lLAYER.json` below `--out`, for the first seed, with the texts, the outlier
and the random channels of `operations.py`. A bound that only the outlier passes leaves every
control as it was; here |x| is held to the median of |x| over all channels of other texts, which
every channel passes at times. `normalise` scales each token to the median token's rms in other
texts and writes the channels of the target alone. The channel is zeroed beside, for `operations.py`
leaves out the first and the last layer.
"""

from __future__ import annotations

from typing import Any

from common import Rows, arguments, inputs, load, once, runs
from operations import DRAWS, PLACES, ROWS, SITE, WIDTH, largest_channel, of_outlier, plain

from laminogram.probe.recording import documents
from laminogram.studies.operation_results import Condition
from laminogram.studies.operation_run import Run
from laminogram.studies.operation_targets import Target, batches, controls
from laminogram.studies.operations import OPERATIONS, calibrate
from laminogram.view import View

RULES = {"zero": "zero", "clip": "clip at median", "normalise": "normalise"}
REPLICATES = 200


def main() -> None:
    """Command line: see the top of the file."""
    args = arguments(__doc__)
    rows = [row[:WIDTH] for row in inputs(args.corpus, ("books",))["books"]]
    texts, other = rows[:ROWS], rows[ROWS : 2 * ROWS]
    names = args.only or runs(seeds=(1,))
    views = {name: load(args.models, name) for name in names}
    for place in (*PLACES, 1.0, 0.0):
        for name, view in views.items():
            layer = min(int(place * view.config.num_layers), view.config.num_layers - 1)
            file = args.out / "clipping" / f"{name}@l{layer}.json"
            once(file, lambda at=layer, view=view: operated(view, texts, other, at))


def operated(view: View, texts: Rows, other: Rows, layer: int) -> dict[str, Any]:
    """The tables of the rules on the channel and its controls, and how many entries changed."""
    channel = Target("channel", SITE, (layer,), (largest_channel(view, other, layer),))
    targets = [channel, *controls(view, texts, channel, draws=DRAWS)]
    known = calibrate(view, other, SITE, (layer,), quantile=0.5)
    conditions = [Condition(target, rule, 1.0) for rule in RULES for target in targets]
    run = Run(
        view,
        conditions,
        lambda one, where: OPERATIONS[one.operation](one.target, known, one.dose, where),
        len(documents(view, texts)),
        sinks=False,
    )
    for chosen, batch in batches(view, texts, ROWS):
        run.batch(chosen, batch)
    found = run.results(REPLICATES, {}).tables()
    for table in found.values():
        table["operation"] = [RULES[rule] for rule in table["operation"]]
    kept = {name: found[name] for name in ("operations", "operations-controls")}
    return {
        "layer": layer,
        "layers": view.config.num_layers,
        "channel": channel.channels[0],
        "tables": [plain(kept | {"regrowth": of_outlier(found["operations-regrowth"])})],
    }


if __name__ == "__main__":
    main()
