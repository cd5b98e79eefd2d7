"""What studies found, as text: tables and sparklines, drawn by rich.

    print_lens(lens(view, "The river ran"))

How they look in a terminal and elsewhere: see `report.console`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from laminogram.report.console import Page, number
from laminogram.report.terminal_charts import print_comparison, print_outliers
from laminogram.report.terminal_painters import print_painters
from laminogram.studies.attention import AttentionMaps
from laminogram.studies.compare.result import Comparison
from laminogram.studies.lens import Lens
from laminogram.studies.massive import DEFINITION, Massive
from laminogram.studies.model_map import ModelMap
from laminogram.studies.next_token import NextToken
from laminogram.studies.outlier_report.report import OutlierReport
from laminogram.studies.painters.result import Painters
from laminogram.studies.recording import ModelRecord
from laminogram.studies.similarity import Similarity
from laminogram.studies.study import Study

LINES = 40
"""Tokens that are printed at most."""
SHOWN_ROWS = 6
"""Rows of the lens whose likeliest token is printed, at most."""
_LOSS_COLOURS = ((0.5, "#f7fbff"), (1.5, "#c6dbef"), (3, "#6baed6"), (5, "#2171b5"))
"""Light to dark blue, up to so many nats; safe for colour-blind people."""
_HIGHEST_COLOUR = "#08306b"


def _cut(page: Page, count: int) -> None:
    if count > LINES:
        page.say(f"... and {count - LINES} tokens more: the tables hold all")


def _some(count: int, most: int) -> list[int]:
    """At most `most` of so many rows, evenly spread, both ends among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


# The results


def print_lens(result: Lens, console: Console | None = None) -> None:
    """The likeliest token at some rows, how the model's answer grows, and each row's distance."""
    page = Page(console)
    page.title(f"{result.model}: what the model would say if it stopped after each step")
    room = (page.console.width - 30 - len(result.labels)) // 18
    shown = _some(len(result.labels), max(2, min(SHOWN_ROWS, room)))
    left = len(result.labels) - len(shown)
    columns = ["", "token:", "p(answer):", "from", *(f"{result.labels[i]}:" for i in shown)]
    rows: list[list[str | Text]] = []
    for t, token in enumerate(result.tokens[:LINES]):
        said = [
            _candidate(page, result.top_texts[i][t][0], float(result.top_probability[i, t, 0]))
            for i in shown
        ]
        growth = page.spark(result.probability[:, t], 0, 1)
        rows.append([str(t), page.shown(token), growth, _settled(result, t), *said])
    page.table(columns, rows)
    _cut(page, len(result.tokens))
    page.say(
        "p(answer): probability of the model's own likeliest token, row by row, full height 1; "
        "from: the first row from which it stays the likeliest."
        + (f" Shown are {len(shown)} of {len(result.labels)} rows." if left else "")
    )
    agreement = (result.rank == 1).mean(1)
    page.table(
        ["row", "entropy, nats", "KL to the last, nats", "same answer"],
        (
            [label, number(entropy), number(kl), f"{same:.0%}"]
            for label, entropy, kl, same in zip(
                result.labels, result.entropy.mean(1), result.kl.mean(1), agreement, strict=True
            )
        ),
    )
    for one, (ranks, probabilities) in result.chosen.items():
        page.say(f"{page.shown(result.chosen_texts[one])} (id {one}) after the last token:")
        page.table(
            ["row", "rank", "probability"],
            (
                [label, str(rank), number(p)]
                for label, rank, p in zip(
                    result.labels, ranks[:, -1], probabilities[:, -1], strict=True
                )
            ),
        )


def _candidate(page: Page, text: str, probability: float) -> Text:
    style = "dim" if probability < 0.1 else "" if probability < 0.5 else "bold"
    return Text(f"{page.shown(text)} {probability:.0%}", style)


def _settled(result: Lens, t: int) -> str:
    others = np.flatnonzero(result.rank[:, t] != 1)
    return result.labels[0 if not others.size else min(others[-1] + 1, len(result.labels) - 1)]


def print_attention(result: AttentionMaps, console: Console | None = None) -> None:
    """Head by head, how much of its attention goes to the first cell and to the cell itself."""
    page = Page(console)
    page.title(f"{result.model}: {result.meaning}")
    size = np.abs(result.pattern.astype(np.float64))
    total = size.sum(-1, keepdims=True)
    share = np.divide(size, total, out=np.zeros_like(size), where=total > 0)
    later = share[:, :, 1:] if share.shape[2] > 1 else share
    first = later[..., 0].mean(-1)  # (R, H)
    itself = np.diagonal(share, axis1=2, axis2=3).mean(-1)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    entropy = -(share * logs).sum(-1).mean(-1)
    what = "token" if result.pooled == 1 else f"{result.pooled} tokens"
    page.table(
        ["layer", f"to the first {what}", "heads:", "to itself", "heads:", "entropy", "heads:"],
        (
            [
                label,
                f"{first[r].mean():.1%}",
                page.spark(first[r], 0, 1),
                f"{itself[r].mean():.1%}",
                page.spark(itself[r], 0, 1),
                number(entropy[r].mean()),
                page.spark(entropy[r], 0),
            ]
            for r, label in enumerate(result.labels)
        ),
    )
    page.say(
        "Shares of the size of a query's weights, mean over queries (to the first: of the later "
        "ones); entropy in nats. A letter a head, full height 1 (entropy: the layer's largest)."
    )
    if result.note:
        page.say(result.note)


def print_similarity(result: Similarity, console: Console | None = None) -> None:
    """Each state beside the next one, its likeness to all, and the groups."""
    page = Page(console)
    texts = f"{result.texts} text{'s' if result.texts > 1 else ''}, {result.count} tokens"
    page.title(f"{result.model}: how alike its states are ({texts})")
    group = {i: name for name, first, last in result.groups for i in range(first, last + 1)}
    rows: list[list[str | Text]] = []
    for i, label in enumerate(result.labels):
        near = []
        for matrix in (result.per_token, result.without_first, result.flattened, result.cka):
            known = matrix is not None and i + 1 < len(result.labels)
            near.append(f"{matrix[i, i + 1]:.3f}" if known and matrix is not None else "-")
        rows.append([label, page.spark(result.per_token[i], 0, 1), *near, _group(group.get(i, ""))])
    columns = ["input of", "to every state:", "per token", "without first", "flattened", "CKA"]
    page.table([*columns, "group:"], rows)
    page.say(
        "Numbers compare a state with the next one; the letters, per-token cosine with every "
        "state, full height 1."
    )
    page.say(result.groups_rule)


def _group(name: str) -> Text:
    return Text(name, {"beginning": "cyan", "ending": "magenta"}.get(name, ""))


def print_massive(result: Massive, console: Console | None = None) -> None:
    """Top-1, 2, 3 and the medians of each row."""
    page = Page(console)
    page.title(f"{result.model}: the largest values of {result.site}")
    names = result.token_labels
    rows: list[list[str | Text]] = []
    for r, label in enumerate(result.labels):
        token, channel = (int(i) for i in result.places[r, 0])
        ratio = result.top[r, 0] / result.median[r] if result.median[r] else math.inf
        rows.append(
            [
                label,
                *(number(float(x)) for x in result.top[r]),
                number(float(result.median[r])),
                number(float(ratio)),
                Text("massive" if result.massive[r] else "", "bold yellow"),
                "-" if token < 0 else f"{page.shown(names[token])} channel {channel}",
            ]
        )
    page.table(["layer", "top 1", "top 2", "top 3", "median", "ratio", ":", "where:"], rows)
    page.say(f"top 1 by row {page.spark(result.top[:, 0], 0)}")
    page.say(DEFINITION)
    if result.nonfinite.any():
        page.say(f"{int(result.nonfinite.sum()):,} values are not finite and are left out.")


def print_map(result: ModelMap, console: Console | None = None) -> None:
    """Every part with its parameters; a line a layer, with its statistics."""
    page = Page(console)
    total = sum(part.parameters for part in result.parts)
    memory = sum(part.bytes for part in result.parts)
    page.title(f"{result.model}: {total:,} parameters, {memory:,} bytes")
    ends = [part for part in result.parts if part.layer is None]
    page.table(
        ["part", "parameters", "bytes", "share", ":", "tensors:"],
        (
            [
                part.name,
                f"{part.parameters:,}",
                f"{part.bytes:,}",
                f"{part.parameters / total:.1%}",
                page.bar(part.parameters / total),
                part.shape,
            ]
            for part in ends
        ),
    )
    layers: list[list[str]] = []
    for layer, label in enumerate(result.labels):
        parts = {part.kind: part for part in result.parts if part.layer == layer}
        sizes = [parts[kind].parameters if kind in parts else 0 for kind in _KINDS]
        names = " + ".join(parts[kind].name for kind in ("attn", "ffn") if kind in parts)
        steps = ", ".join(map(str, result.steps[layer])) or "not run"
        layers.append([label, steps, names, *(f"{size:,}" for size in (*sizes, sum(sizes)))])
    page.table(["layer", "steps:", "what:", *_KINDS, "all"], layers)
    statistics = {k: v for k, v in result.statistics.items() if k not in ("parameters", "bytes")}
    rows = [
        [label, *(number(float(values[layer])) for values in statistics.values())]
        for layer, label in enumerate(result.labels)
    ]
    page.table(["layer", *statistics], rows)
    page.courses("by layer", statistics)
    for name in statistics:
        page.say(f"{name}: {result.meanings[name]}")


_KINDS = ("attn", "ffn", "norms")


def print_next(result: NextToken, console: Console | None = None) -> None:
    """The text coloured by loss (with the losses themselves), and what may follow it."""
    page = Page(console)
    page.title(f"{result.model}: the loss of each token, and what may follow")
    if result.loss.size:
        mean = float(result.loss.mean())
        page.say(f"{mean:.4f} nats a token over {result.loss.size} tokens")
    if page.console.color_system and page.console.is_terminal:
        page.say(coloured(result))
        page.say(_legend())
    highest = float(result.loss.max()) if result.loss.size else 1.0
    page.table(
        ["", "token:", "loss, nats", ":"],
        (
            [str(t), page.shown(token), number(loss), page.bar(loss / highest if highest else 0)]
            if t
            else ["0", page.shown(token), "-", ""]
            for t, token, loss in zip(
                range(LINES), result.tokens, [math.nan, *result.loss.tolist()]
            )
        ),
    )
    _cut(page, len(result.tokens))
    at = "" if result.temperature == 1 else f" at temperature {result.temperature:g}"
    page.say(f"After the last token{at} (entropy {result.entropy:.3f} nats):")
    page.table(
        ["next", "probability", ":"],
        (
            [page.shown(text), f"{p:.2%}", page.bar(p / result.probability[0])]
            for text, p in zip(result.texts, result.probability, strict=True)
        ),
    )


def coloured(result: NextToken) -> Text:
    """The text, each token on the colour of its loss; the first has none."""
    text = Text()
    for token, loss in zip(result.tokens, [None, *result.loss.tolist()], strict=True):
        text.append(token, style="" if loss is None else _loss_style(loss))
    return text


def _loss_style(loss: float) -> str:
    colour = next((colour for most, colour in _LOSS_COLOURS if loss < most), _HIGHEST_COLOUR)
    dark = colour in (_HIGHEST_COLOUR, _LOSS_COLOURS[-1][1])
    return f"{'#ffffff' if dark else '#000000'} on {colour}"


def _legend() -> Text:
    text = Text("loss in nats: ")
    for most, _ in _LOSS_COLOURS:
        text.append(f" below {most:g} ", style=_loss_style(most - 1e-6))
    text.append(f" {_LOSS_COLOURS[-1][0]:g} and more ", style=_loss_style(math.inf))
    return text


# The study


_STATISTICS = {
    "rms": "rms",
    "absmax": "max |x|",
    "median_abs": "median |x|",
    "excess_kurtosis": "kurtosis",
    "top_channel_share": "top channel",
    "participation_ratio": "channels",
    "beyond_6_sigma": "beyond 6 sd",
}


def print_study(study: Study, console: Console | None = None) -> None:
    """The findings of a study or of an EEG: for each model its loss, statistics by layer, and the
    largest channels."""
    page = Page(console)
    for i, record in enumerate(study.records):
        if i:
            page.say("")
        _print_record(page, record)


def _print_record(page: Page, record: ModelRecord) -> None:
    card = record.card
    page.title(
        f"{record.name}: {record.site} of {len(record.labels)} steps over "
        f"{len(record.token_ids)} tokens"
    )
    page.say(
        f"{card['family']}, {card['layers']} layers of {card['hidden_size']} channels, "
        f"{card['parameter_total']:,} parameters"
    )
    page.say(_loss_line(record))
    which = "rest" if "rest" in record.statistics else "all"
    chosen = {word: record.statistics[which][name] for name, word in _STATISTICS.items()}
    rows = [
        [label, *(number(float(values[i])) for values in chosen.values())]
        for i, label in enumerate(record.labels)
    ]
    page.table(["layer", *chosen], rows)
    first_too = {"max |x|, all": record.statistics["all"]["absmax"]} if which == "rest" else {}
    page.courses("by layer", chosen | first_too)
    if which == "rest":
        page.say(
            "The first token, where massive activations sit, is left out of all but the last line."
        )
    nonfinite = int(record.statistics["all"]["nonfinite"].sum())
    if nonfinite:
        page.say(f"{nonfinite:,} values are not finite; they are left out of the statistics.")
    print_peaks(page, record)


def print_peaks(page: Page, record: ModelRecord) -> None:
    """The largest channels: layer, channel, value and token."""
    page.say("Largest channels:")
    page.table(
        ["layer", "channel", "value", "token:"],
        (
            [
                record.labels[peak.row],
                str(peak.channel),
                number(peak.value),
                _token(page, record, peak.token),
            ]
            for peak in record.peaks
        ),
    )


def _token(page: Page, record: ModelRecord, token: int) -> str:
    texts = record.token_texts
    return str(token) if texts is None else f"{token} {page.shown(texts[token])}"


def _loss_line(record: ModelRecord) -> str:
    reading = record.reading
    if reading is None:
        return "no next-token loss: it reads both directions, or the text is one token"
    said = f"{reading.nats_per_token:.4f} nats a token, perplexity {reading.perplexity:.4g}"
    bits = reading.bits_per_byte
    return said if bits is None else f"{said}, {bits:.4f} bits a byte"


PRINTERS: dict[type, Callable[..., None]] = {
    AttentionMaps: print_attention,
    Comparison: print_comparison,
    Lens: print_lens,
    Massive: print_massive,
    ModelMap: print_map,
    NextToken: print_next,
    OutlierReport: print_outliers,
    Painters: print_painters,
    Similarity: print_similarity,
    Study: print_study,
}


def print_result(result: Any, console: Console | None = None) -> None:
    """Print any result of a study; TypeError for what is none."""
    if type(result) not in PRINTERS:
        raise TypeError(f"{type(result).__name__} has no text form")
    PRINTERS[type(result)](result, console)
