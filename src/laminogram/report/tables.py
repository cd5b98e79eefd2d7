"""The numbers behind the pictures: every table as Parquet and as npz, with the same columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from laminogram.studies.study import Study

Column = np.ndarray[Any, Any] | Sequence[Any]


def slug(name: str) -> str:
    """Return `name` as a file name: letters, digits, dot and hyphen, never empty."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    return plain[-80:] or "model"


def write_table(folder: Path, name: str, columns: Mapping[str, Column]) -> list[str]:
    """Write `name.parquet` and `name.npz` with the same columns; return the two file names.

    A two-dimensional array becomes a Parquet column of lists of fixed length. Text that is not
    valid Unicode gets replacement marks. None becomes null in Parquet, NaN or "" in npz.
    """
    arrow = pa.table({key: _arrow(column) for key, column in columns.items()})
    pq.write_table(arrow, folder / f"{name}.parquet", compression="zstd")
    arrays: dict[str, Any] = {key: _array(column) for key, column in columns.items()}
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    return [f"{name}.parquet", f"{name}.npz"]


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode("utf-8")


def _arrow(column: Column) -> Any:
    if isinstance(column, np.ndarray) and column.ndim == 2:
        flat = pa.array(np.ascontiguousarray(column).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, column.shape[1])
    if isinstance(column, np.ndarray):
        return pa.array(column)
    return pa.array([_text(v) if isinstance(v, str) else v for v in column])


def _array(column: Column) -> Any:
    if isinstance(column, np.ndarray):
        return column
    if any(isinstance(v, str) for v in column):
        return np.array(["" if v is None else _text(str(v)) for v in column], dtype=np.str_)
    if any(v is None for v in column):
        return np.array([np.nan if v is None else v for v in column], dtype=np.float64)
    return np.array(column)


def write_study_tables(study: Study, folder: Path) -> dict[str, list[str]]:
    """Write all tables of a study into `folder`; return picture -> file names.

    `eeg-MODEL`: one row per (layer, token) with the values of all channels, unpooled.
    `statistics`, `peaks`, `tokens`, `cards`: one table each over all models.
    """
    files: dict[str, list[str]] = {"eeg": []}
    used: set[str] = set()
    for record in study.records:
        name = stem = f"eeg-{slug(record.name)}"
        number = 2
        while name in used:
            name, number = f"{stem}-{number}", number + 1
        used.add(name)
        layers, tokens, channels = record.values.shape
        steps = np.repeat([step for step, _, _ in record.rows], tokens)
        numbers = np.repeat([layer for _, layer, _ in record.rows], tokens)
        columns: dict[str, Column] = {
            "step": steps.astype(np.int32),
            "layer": numbers.astype(np.int32),
            "token": np.tile(np.arange(tokens, dtype=np.int32), layers),
            study.site: record.values.reshape(layers * tokens, channels),
        }
        files["eeg"] += write_table(folder, name, columns)
    files["statistics"] = write_table(folder, "statistics", _statistics(study))
    files["peaks"] = write_table(folder, "peaks", _peaks(study))
    files["tokens"] = write_table(folder, "tokens", _tokens(study))
    files["cards"] = write_table(folder, "cards", _cards(study))
    return files


def _columns(rows: list[dict[str, Any]]) -> dict[str, Column]:
    return {key: [row[key] for row in rows] for key in rows[0]} if rows else {}


def _statistics(study: Study) -> dict[str, Column]:
    rows = []
    for record in study.records:
        for tokens, statistics in record.statistics.items():
            for index, (step, layer, _) in enumerate(record.rows):
                row: dict[str, Any] = {"model": record.name, "tokens": tokens}
                row |= {"step": step, "layer": layer}
                row |= {key: float(values[index]) for key, values in statistics.items()}
                rows.append(row)
    return _columns(rows)


def _peaks(study: Study) -> dict[str, Column]:
    rows = []
    for record in study.records:
        for rank, peak in enumerate(record.peaks, 1):
            step, layer, _ = record.rows[peak.row]
            text = record.token_texts[peak.token] if record.token_texts else None
            rows.append(
                {
                    "model": record.name,
                    "rank": rank,
                    "step": step,
                    "layer": layer,
                    "channel": peak.channel,
                    "value": peak.value,
                    "token": peak.token,
                    "token_text": text,
                }
            )
    return _columns(rows)


def _tokens(study: Study) -> dict[str, Column]:
    rows = []
    for record in study.records:
        losses = record.reading.losses if record.reading else np.zeros(0)
        for index, token_id in enumerate(record.token_ids):
            span = record.spans[index] if record.spans else (None, None)
            known = 0 < index <= len(losses)
            rows.append(
                {
                    "model": record.name,
                    "token": index,
                    "id": token_id,
                    "text": record.token_texts[index] if record.token_texts else None,
                    "start": span[0],
                    "end": span[1],
                    "generated": index >= record.prompt_length,
                    "loss_nats": float(losses[index - 1]) if known else None,
                }
            )
    return _columns(rows)


def _cards(study: Study) -> dict[str, Column]:
    rows = []
    for record in study.records:
        card = record.card
        plain = {key: value for key, value in card.items() if not isinstance(value, dict)}
        row: dict[str, Any] = plain | {"name": record.name}
        for part in ("embedding", "attn", "ffn", "norms", "head"):
            row[f"parameters_{part}"] = card["parameters"].get(part, 0)
        for precision in ("float32", "bfloat16", "float16"):
            row[f"bytes_{precision}"] = card["bytes_by_precision"].get(precision, 0)
        reading = record.reading
        row["nats_per_token"] = reading.nats_per_token if reading else None
        row["perplexity"] = reading.perplexity if reading else None
        row["bits_per_byte"] = reading.bits_per_byte if reading else None
        rows.append(row)
    return _columns(rows)
