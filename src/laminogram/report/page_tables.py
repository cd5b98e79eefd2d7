"""What a study's page shows in words and numbers: the models' cards, the charts and the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from laminogram.report.figures import count, memory, number, quoted, short, signed
from laminogram.studies.layer_statistics import FORMULAS
from laminogram.studies.recording import ModelRecord

CHARTS = (
    ("rms", "Root mean square", "log"),
    ("absmax", "Largest magnitude", "log"),
    ("median_abs", "Median magnitude", "log"),
    ("excess_kurtosis", "Excess kurtosis", "symlog"),
    ("top_channel_share", "Energy in the top channel", "linear"),
    ("participation_ratio", "Participation ratio", "log"),
    ("beyond_6_sigma", "Values beyond 6 σ", "symlog"),
)
"""(statistic, title, kind of axis); the kinds are those of viewer/lines.js."""
_SETS = (
    ("rest", "without the first token"),
    ("all", "all tokens"),
    ("first", "the first token alone"),
)
_PARTS = {
    "embedding": "embedding",
    "attn": "token mixer",
    "ffn": "channel mixer",
    "norms": "norms",
    "head": "head",
}
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], words: Sequence[int] = ()
) -> dict[str, Any]:
    """Return a table as viewer/tables.js draws it; `words` numbers the columns that hold words."""
    cells = [[str(cell) for cell in row] for row in rows]
    return {"caption": caption, "columns": list(columns), "words": list(words), "rows": cells}


def study_tables(records: Sequence[ModelRecord]) -> dict[str, Any]:
    """Return the tables `statistics` and `peaks` (several each) and `reading`."""
    return {
        "statistics": [
            _statistics(record, which, words)
            for record in records
            for which, words in _SETS
            if which in record.statistics
        ],
        "peaks": [_peaks(record) for record in records],
        "reading": _reading(records),
    }


def _statistics(record: ModelRecord, which: str, words: str) -> dict[str, Any]:
    chosen = [record.statistics[which][key] for key, _, _ in CHARTS]
    rows = [
        [label, *(number(float(values[row])) for values in chosen)]
        for row, label in enumerate(record.labels)
    ]
    return table(f"{record.name}, {words}", ["layer", *(title for _, title, _ in CHARTS)], rows)


def _peaks(record: ModelRecord) -> dict[str, Any]:
    texts = record.token_texts
    rows = [
        [
            record.labels[peak.row],
            peak.channel,
            signed(peak.value),
            peak.token,
            f"id {record.token_ids[peak.token]}" if texts is None else quoted(texts[peak.token]),
        ]
        for peak in record.peaks
    ]
    return table(record.name, ["layer", "channel", "value", "token", "text"], rows, words=[4])


def _reading(records: Sequence[ModelRecord]) -> dict[str, Any]:
    rows = []
    for record in records:
        one = record.reading
        known = (one.nats_per_token, one.perplexity, one.bits_per_byte) if one else (None,) * 3
        told = one.losses.size if one else "n/a"
        rows.append([record.name, told, *(number(value) for value in known)])
    return table(
        "Teacher forced: each token after the first, given all before it",
        ["model", "tokens predicted", "nats a token", "perplexity", "bits a byte"],
        rows,
        words=[0],
    )


def charts(records: Sequence[ModelRecord]) -> list[dict[str, Any]]:
    """Return the charts by layer: title, kind, formula, and of each model `rest` and `all`.

    `rest` leaves the first token out; a model that read one token alone has `all` there too. What
    is not finite becomes None.
    """
    return [
        {
            "title": title,
            "kind": kind,
            "formula": FORMULAS[key],
            "rest": [_finite(r.statistics.get("rest", r.statistics["all"])[key]) for r in records],
            "all": [_finite(r.statistics["all"][key]) for r in records],
        }
        for key, title, kind in CHARTS
    ]


def _finite(values: Any) -> list[float | None]:
    found = (float(value) for value in values)
    return [value if abs(value) < float("inf") else None for value in found]


def card(record: ModelRecord) -> dict[str, Any] | None:
    """Return a model's card as viewer/cards.js draws it: its parts, and facts with their notes.

    None where nothing is known of the model but its recording.
    """
    known = record.card
    total = known["parameter_total"]
    if not total:
        return None
    return {
        "family": known["family"],
        "size": short(known["parameter_total"]),
        "parts": [
            {"kind": part, "name": _PARTS.get(part, part), "size": short(n), "share": n / total}
            for part, n in known["parameters"].items()
            if n > 0
        ],
        "facts": _facts(known, record),
    }


def _facts(known: Mapping[str, Any], record: ModelRecord) -> list[tuple[str, str, str]]:
    sizes: dict[int, list[str]] = {}  # precisions of the same size share an entry
    for precision, size in known["bytes_by_precision"].items():
        sizes.setdefault(size, []).append(_PRECISIONS.get(precision, precision))
    held = [f"{memory(size)} {'/'.join(names)}" for size, names in sizes.items()] or ["n/a"]
    facts = [
        ("layers", str(known["layers"]), f"× {known['hidden_size']} channels"),
        ("vocabulary", count(known["vocab_size"]), ""),
        ("weights", held[0], ", ".join(held[1:])),
    ]
    if known.get("cache_bytes_per_token"):
        facts.append(("cache", memory(known["cache_bytes_per_token"]), "a token"))
    if known.get("state_bytes"):
        facts.append(("state", memory(known["state_bytes"]), "for any length"))
    context = known.get("context")
    facts.append(("context", count(context), "tokens") if context else ("context", "any", "length"))
    reading = record.reading
    if reading is not None:
        perplexity, bits = number(reading.perplexity, 3), reading.bits_per_byte
        told = (perplexity, "perplexity")
        if bits is not None:
            told = (number(bits, 3), f"bits a byte, perplexity {perplexity}")
        facts.append(("this text", *told))
    return facts
