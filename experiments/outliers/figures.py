"""The figures of the page, from the tables in `results/`.

    python experiments/outliers/figures.py

Writes SVG files to `figures/` beside this script.
"""

from __future__ import annotations

import csv
import math
import statistics
from pathlib import Path

from draw import COLOURS, Line, Panel, draw
from sizes import SEEDS, SIZES

HERE = Path(__file__).parent
NAMES = list(SIZES["llama"])
SITES = ("ffn_out", "attn_out", "resid_post")
FORMATS = ("int8", "w8a8", "int4-g8")
INPUTS = ("books", "chinese", "random", "repeated")
Row = dict[str, str]


def main() -> None:
    """Command line: see the top of the file."""
    (HERE / "figures").mkdir(exist_ok=True)
    pictures = (
        size,
        depth,
        inputs,
        precisions,
        precision_inputs,
        dispersion,
        operations,
        doses,
        confound,
    )
    for picture in pictures:
        file = HERE / "figures" / f"{picture.__name__}.svg"
        file.write_text(picture(), encoding="utf-8")
        print(f"{file.name}: {file.stat().st_size} bytes")


def rows(name: str, **where: str) -> list[Row]:
    """The rows of a table that have these values."""
    with (HERE / "results" / f"{name}.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if all(row[k] == v for k, v in where.items())]


def number(text: str) -> float:
    """A number of a table; NaN where it has none."""
    return float(text) if text else math.nan


def parameters(kind: str) -> list[float]:
    """Millions of parameters of the four sizes."""
    known = {row["model"]: float(row["parameters"]) / 1e6 for row in rows("models")}
    return [known[f"{kind}-{size}-1"] for size in NAMES]


def over_layers(found: list[Row], model: str, column: str) -> float:
    """The median over a model's layers."""
    values = [number(row[column]) for row in found if row["model"] == model]
    return statistics.median(values) if values else math.nan


def _by_size(found: list[Row], column: str) -> list[Line]:
    """A line for each family through the median seed, and a thin one for each seed."""
    lines = []
    for kind, colour in zip(SIZES, COLOURS, strict=False):
        seeds = [[over_layers(found, f"{kind}-{s}-{n}", column) for s in NAMES] for n in SEEDS]
        middle = [_median(values) for values in zip(*seeds, strict=True)]
        x = parameters(kind)
        lines += [Line(x, values, colour, width=0.7) for values in seeds]
        lines.append(Line(x, middle, colour, f"{kind} (thin: seeds)"))
    return lines


def _median(values: tuple[float, ...]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return statistics.median(known) if known else math.nan


SIZE_TICKS = [(0.3, "0.3 M"), (1, "1"), (3, "3"), (10, "10")]


def size() -> str:
    """Scale-free quantities by size, median over layers, on the books."""
    panels = []
    for column, title in (
        ("ratio", "max / median of the state"),
        ("kurtosis", "channel kurtosis"),
        ("max_median", "largest / median channel"),
    ):
        for site in SITES:
            found = rows("levels", site=site)
            lines = _by_size(found, column)
            panels.append(Panel(f"{site}: {title}", lines, SIZE_TICKS, True, True, "parameters"))
    return draw("Outliers by size, held-out books, median over layers", panels)


def depth() -> str:
    """max / median by relative depth, every seed."""
    panels = []
    for kind in SIZES:
        for site in SITES:
            found = rows("levels", site=site)
            lines = []
            for name, colour in zip(NAMES, COLOURS, strict=False):
                for seed in SEEDS:
                    y = _layers(found, f"{kind}-{name}-{seed}", "ratio")
                    x = [n / max(len(y) - 1, 1) for n in range(len(y))]
                    lines.append(Line(x, y, colour, name if seed == 1 else "", width=1.1))
            ticks = [(0, "first"), (1, "last layer")]
            panels.append(Panel(f"{kind}: {site}", lines, ticks, y_log=True))
    return draw("max / median of the state by relative depth, held-out books, every seed", panels)


def _layers(found: list[Row], model: str, column: str) -> list[float]:
    own = [row for row in found if row["model"] == model]
    return [number(row[column]) for row in sorted(own, key=lambda row: int(row["layer"]))]


def inputs() -> str:
    """max / median by size for each input."""
    panels = []
    for kind in SIZES:
        for site in SITES:
            lines = []
            for of, colour in zip(INPUTS, COLOURS, strict=False):
                found = rows("inputs", input=of, site=site)
                y = [
                    _median(tuple(over_layers(found, f"{kind}-{s}-{n}", "ratio") for n in SEEDS))
                    for s in NAMES
                ]
                lines.append(Line(parameters(kind), y, colour, of))
            panels.append(Panel(f"{kind}: {site}", lines, SIZE_TICKS, True, True, "parameters"))
    return draw("max / median of the state by input, median over layers and seeds", panels)


def precisions() -> str:
    """KL against fp32 by size and format."""
    panels = []
    found = rows("precisions", input="books")
    formats = list(dict.fromkeys(row["precision"] for row in found))
    for kind in SIZES:
        lines = []
        for name, colour in zip(formats, COLOURS, strict=False):
            for seed in SEEDS:
                models = [f"{kind}-{size}-{seed}" for size in NAMES]
                values = {r["model"]: r for r in found if r["precision"] == name}
                y, low, high = (
                    [number(values[m][c]) if m in values else math.nan for m in models]
                    for c in ("kl", "kl_low", "kl_high")
                )
                first = seed == 1
                ends = (low, high) if first else ((), ())
                label, wide = (name, 1.8) if first else ("", 0.7)
                lines.append(Line(parameters(kind), y, colour, label, *ends, width=wide))
        title = f"{kind}: KL(fp32 || format), nats a token"
        panels.append(Panel(title, lines, SIZE_TICKS, True, True, "parameters"))
    return draw("Functional divergence by size (whiskers: documents; thin: seeds)", panels, 2)


def precision_inputs() -> str:
    """KL against fp32 by size and input, the median seed and every seed."""
    panels = []
    for kind in SIZES:
        for of in INPUTS:
            found = {(row["model"], row["precision"]): row for row in rows("precisions", input=of)}
            lines = []
            for name, colour in zip(FORMATS, COLOURS, strict=False):
                seeds = [
                    [number(found[f"{kind}-{size}-{seed}", name]["kl"]) for size in NAMES]
                    for seed in SEEDS
                ]
                lines += [Line(parameters(kind), values, colour, width=0.5) for values in seeds]
                middle = [_median(values) for values in zip(*seeds, strict=True)]
                lines.append(Line(parameters(kind), middle, colour, name))
            panels.append(Panel(f"{kind}: {of}", lines, SIZE_TICKS, True, True, "parameters"))
    return draw("KL(fp32 || format) in nats a token, by size and input (thin: seeds)", panels, 4)


def dispersion() -> str:
    """How the variance adds up, by relative depth, for the largest models."""
    parts = ("between_tokens", "between_channels", "between_documents")
    panels = []
    for kind in SIZES:
        for site in SITES:
            found = rows("dispersion", site=site)
            lines = []
            for part, colour in zip(parts, COLOURS, strict=False):
                for seed in SEEDS:
                    y = _layers(found, f"{kind}-l-{seed}", part)
                    label = part.replace("_", " ") if seed == 1 else ""
                    lines.append(Line(range(len(y)), y, colour, label, width=1.2))
            ticks = [(n, str(n)) for n in range(0, 12, 2)]
            panels.append(Panel(f"{kind}-l: {site}", lines, ticks, x_label="layer"))
    return draw("Shares of the variance by layer, l size, three seeds, held-out books", panels)


def operations() -> str:
    """Loss change of operations on the largest channel, by relative depth, size and seed."""
    panels = []
    for kind in SIZES:
        for rule in ("zero", "mean", "clip"):
            lines = []
            for name, colour in zip(NAMES, COLOURS, strict=False):
                own = [_places(f"{kind}-{name}-{seed}", rule) for seed in SEEDS]
                places = [row for found in own for row in found]
                x = sorted({_depth(row) for row in places})
                y, most = (
                    _over_seeds(places, x, column) for column in ("loss_change", "random_high")
                )
                lines += [_by_depth(found, colour) for found in own]
                lines.append(Line(x, [_median(tuple(at)) for at in y], colour, name))
                highest = [max(at) for at in most]
                label = "most of 60 draws"
                lines.append(Line(x, highest, colour, label, dash="4 3", width=1.0))
            ticks = [(0, "first"), (0.5, "middle"), (1, "last layer")]
            panels.append(Panel(f"{kind}, {rule}: nats a token", lines, ticks))
    return draw("Operations on the largest channel of the stream, by layer (thin: seeds)", panels)


def _places(model: str, rule: str) -> list[Row]:
    """The largest channel after the first, the middle and the last layer."""
    own = [row for row in rows("operations", model=model, operation=rule) if row["part"][0] == "l"]
    return sorted(own, key=lambda row: int(row["layer"]))


def _depth(row: Row) -> float:
    """0, 0.5 or 1."""
    layer, last = int(row["layer"]), int(row["layers"]) - 1
    return 0.0 if layer == 0 else 1.0 if layer == last else 0.5


def _over_seeds(found: list[Row], x: list[float], column: str) -> list[list[float]]:
    return [[number(row[column]) for row in found if _depth(row) == at] for at in x]


def _by_depth(found: list[Row], colour: str) -> Line:
    y = [number(row["loss_change"]) for row in found]
    return Line([_depth(row) for row in found], y, colour, width=0.6)


def doses() -> str:
    """Loss change where the largest channel after the middle layer is scaled."""
    panels = []
    for kind in SIZES:
        lines = []
        for name, colour in zip(NAMES, COLOURS, strict=False):
            found = [rows("operations", model=f"{kind}-{name}-{n}", part="doses") for n in SEEDS]
            seeds = [_response(own) for own in found if own]
            if seeds:
                x = [at for at, _ in seeds[0]]
                lines += [Line(x, [y for _, y in own], colour, width=0.6) for own in seeds]
                middle = [_median(tuple(own[n][1] for own in seeds)) for n in range(len(x))]
                lines.append(Line(x, middle, colour, name))
        ticks = [(0, "0"), (0.5, "0.5"), (1, "1"), (1.5, "1.5"), (2, "2")]
        panels.append(Panel(f"{kind}: nats a token", lines, ticks, x_label="factor"))
    return draw("Doses: the largest channel after the middle layer, scaled", panels, 2)


def _response(own: list[Row]) -> list[tuple[float, float]]:
    """(factor, loss change), with nothing at 1."""
    return sorted([(1.0, 0.0), *((number(r["dose"]), number(r["loss_change"])) for r in own)])


def confound() -> str:
    """max |ffn_out| by layer, true and with the rescale left in."""
    models = ("rwkv4-l-1", "rwkv4-l-2", "rwkv4-l-3", "small-rwkv4")
    panels = []
    for model in models:
        own = rows("confound", model=model)
        x = [int(row["layer"]) for row in own]
        lines = [
            Line(x, [number(row["true"]) for row in own], COLOURS[0], "true"),
            Line(x, [number(row["rescaled"]) for row in own], COLOURS[1], "rescale left in"),
        ]
        ticks = [(n, str(n)) for n in range(0, 12, 2)]
        panels.append(Panel(f"{model}: max |ffn_out|", lines, ticks, x_label="layer"))
    return draw("The original confound: values after layer 6 halved by the runtime", panels, 4)


if __name__ == "__main__":
    main()
