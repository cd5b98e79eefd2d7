"""What operations on outliers do, by layer, size and seed, beside twenty matched draws.

    python experiments/outliers/operations.py --models DIR --corpus DIR --out DIR

Writes `operations/MODEL@PART.json` below `--out` for every model and the pair of the zoo. Parts:

- `l0`, `lN`, ...: the largest channel of the stream after the first, the middle and the last layer,
  zeroed, at its mean, clipped to the median of |x| and normalised
- `scalars`: that channel at the one token of each document where it is largest, after the middle
  layer, zeroed and at its mean; the same channel at other tokens beside it
- `weight`: the entry of a down projection that Yu et al. name, without their threshold, at zero
- `doses`: the largest channel after the middle layer times 0, 0.5, 1.5 and 2
- `sinks`: the attention to the first token in the unchanged model, for the changes above
- `spikes`: where a model has them, massive scalars of `ffn_out` where they first come up, zeroed
  and at their mean, with a ratio of 500 in place of 1000: at 1000 no model here has any

Channels, weights and bounds are chosen on other documents than those that are scored; the places of
`scalars` and `spikes` are tokens, and so are those of the scored documents. A rule with a fixed
number of sigmas selects nothing in a narrow model: of 32 channels none can lie 6 standard
deviations above their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from common import Rows, arguments, inputs, load, once, runs, zoo

from laminogram.outliers.base import Evidence
from laminogram.outliers.definitions.super_weights import SuperWeights
from laminogram.probe.measuring import measure
from laminogram.probe.statistics.scales import Scales
from laminogram.studies.operation_targets import Target, controls, massive_scalars, super_weights
from laminogram.studies.operations import operate
from laminogram.view import View

SITE = "resid_post"
ROWS, WIDTH = 8, 64  # documents that are scored, each of another book
DRAWS = 20
CLIP = 0.5  # the quantile of |x| in other texts; most channels pass it at times
RATIO = 500.0  # of |x| to the median, for `spikes`
RULES = ("zero", "mean", "clip", "normalise")
DOSES = {"scale": (0.0, 0.5, 1.5, 2.0)}


def main() -> None:
    """Command line: see the top of the file."""
    args = arguments(__doc__)
    rows = [row[:WIDTH] for row in inputs(args.corpus, ("books",))["books"]]
    study = Study(rows[:ROWS], rows[ROWS:])
    names = args.only or [*zoo(), *runs()]
    for name in sorted(names, key=lambda one: one[-1]):  # a whole seed after the other
        view = load(args.models, name)
        for part, make in study.parts(view).items():
            once(args.out / "operations" / f"{name}@{part}.json", make)


class Study:
    """The parts of the study, on these texts, with outliers found on others."""

    def __init__(self, texts: Rows, other: Rows) -> None:
        self.texts, self.other = texts, other

    def parts(self, view: View) -> dict[str, Callable[[], dict[str, Any]]]:
        """What is made for a model, by name."""
        last = view.config.num_layers - 1
        middle = view.config.num_layers // 2
        made: dict[str, Callable[[], dict[str, Any]]] = {
            f"l{layer}": lambda at=layer: self._told(view, self._channel(view, at), RULES)
            for layer in (0, middle, last)
        }
        return made | {
            "scalars": lambda: self._told(view, self._scalars(view, middle), ("zero", "mean")),
            "weight": lambda: self._told(view, self._weight(view), ("zero",)),
            "doses": lambda: self._told(view, self._channel(view, middle), ("scale",), draws=5),
            "sinks": lambda: {"tables": None, "sink": self._sink(view)},
            "spikes": lambda: self._told(view, self._spikes(view), ("zero", "mean")),
        }

    def _told(
        self, view: View, target: Target | None, rules: Sequence[str], draws: int = DRAWS
    ) -> dict[str, Any]:
        """The tables of operations on a target and its controls; none where there is no target."""
        about: dict[str, Any] = {"layers": view.config.num_layers}
        if target is None:
            return about | {"tables": None}
        beside = controls(view, self.texts, target, draws=draws)
        found = operate(
            view,
            self.texts,
            [target, *beside],
            rules,
            DOSES,
            calibration=self.other,
            quantile=CLIP,
            batch_size=ROWS,
            progress=False,
        ).tables()
        tables = {name: found[name] for name in ("operations", "operations-controls")}
        about |= {"layer": target.layers[0], "target": target.name, "channels": target.channels}
        about |= {"positions": target.positions, "entries": target.entries}
        about["norm"] = [[len(one.channels), one.matched] for one in beside if one.role == "norm"]
        regrowth = of_outlier(found["operations-regrowth"], target.name)
        return about | {"tables": plain(tables | {"regrowth": regrowth})}

    def _sink(self, view: View) -> float:
        """The attention that the first token gets from later ones, mean over layers and heads."""
        gram = view.record(self.texts, sites="pattern")
        found = [gram["pattern", step][:, :, 1:, 0].mean() for step in gram.steps]
        return float(np.mean(found))

    def _channel(self, view: View, layer: int) -> Target:
        energy = (stream(view, self.other, layer) ** 2).mean((0, 1))
        return Target("channel", SITE, (layer,), (int(energy.argmax()),))

    def _scalars(self, view: View, layer: int) -> Target:
        channels = self._channel(view, layer).channels
        size = np.abs(stream(view, self.texts, layer)[..., channels[0]])
        peaks = tuple((int(at),) for at in size.argmax(1))
        return Target("scalar", SITE, (layer,), channels, peaks)

    def _weight(self, view: View) -> Target:
        rule = SuperWeights(threshold=0.0)
        wanted = {site: (Scales(replicates=0),) for site in rule.sites}
        found = list(rule.judge(Evidence({"full": measure(view, self.other, wanted)})))
        largest = max(found, key=lambda entry: entry.value)
        place = (largest.layer, int(largest.detail["row"]), int(largest.detail["column"]))
        return super_weights([place])

    def _spikes(self, view: View) -> Target | None:
        return massive_scalars(view, self.texts, "ffn_out", ratio=RATIO)


def stream(view: View, rows: Rows, layer: int) -> np.ndarray:
    """The stream after a layer (B, T, C)."""
    gram = view.record(rows, sites=SITE, layers=layer)
    return np.asarray(gram[SITE, layer], dtype=np.float64)


def of_outlier(table: dict[str, Any], name: str) -> dict[str, Any]:
    """The lines of the outlier itself, not those of controls."""
    chosen = [n for n, target in enumerate(table["target"]) if target == name]
    kept = ("operation", "dose", "layer", "ratio", "ratio_low", "ratio_high")
    return {column: [table[column][n] for n in chosen] for column in kept}


def plain(tables: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {column: np.asarray(values).tolist() for column, values in table.items()}
        for name, table in tables.items()
    }


if __name__ == "__main__":
    main()
