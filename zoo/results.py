"""What a training run leaves beside its weights: card, samples, loss curve (data and picture)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq

Curve = Sequence[dict[str, float]]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito's, told apart by all


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write `data` as readable JSON, an object without others on one line."""
    text = json.dumps(data, indent=1, ensure_ascii=False)
    text = re.sub(r"{\n[^{}]*}", lambda one: re.sub(r"\n *", " ", one[0]), text)
    path.write_text(text + "\n", encoding="utf-8")


def write_curve(folder: Path, curve: Curve, title: str) -> None:
    """`loss.parquet`, every logged row, and `loss.svg`, loss over tokens."""
    pq.write_table(
        pa.Table.from_pylist(list(curve)),
        folder / "loss.parquet",
        compression="zstd",
        compression_level=19,
        use_dictionary=False,  # no two numbers of a curve are alike
        use_byte_stream_split=True,  # but their exponents are: 0.7 of the bytes
    )
    (folder / "loss.svg").write_text(draw_curve(curve, title), encoding="utf-8")


def thinned(curve: Curve, points: int = 60) -> list[dict[str, float]]:
    """About `points` rows of the curve, evenly spaced and with the last, for the card."""
    every = max(1, math.ceil(len(curve) / points))
    rows = list(curve[::every])
    if curve and rows[-1] is not curve[-1]:
        rows.append(curve[-1])
    return [
        {
            "step": row["step"],
            "tokens": row["tokens"],
            **{name: round(value, 4) for name, value in row.items() if name.startswith("loss")},
        }
        for row in rows
    ]


def write_samples(
    path: Path, name: str, prompts: Sequence[str], texts: Sequence[str], how: str
) -> None:
    """`samples.md`: each prompt in bold, then what the model wrote."""
    lines = [f"# Samples of {name}", "", how, ""]
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True), 1):
        quoted = f"**{prompt.strip()}**{text}".strip().replace("\n", "\n> ")
        lines += [f"{number}.", "", f"> {quoted}", ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def draw_curve(curve: Curve, title: str) -> str:
    """An SVG of loss (nats per token) over millions of tokens, readable on light and dark.

    One line for each source of text, or one for the whole where there is a single source.
    """
    sources = [name for name in curve[0] if name.startswith("loss_")] or ["loss"]
    lines = {name.removeprefix("loss_"): [row[name] for row in curve] for name in sources}
    tokens = [row["tokens"] / 1e6 for row in curve]
    low, high = _range(list(lines.values()))
    width, height, left, bottom, top, right = 720, 360, 56, 44, 36, 16

    def x(value: float) -> float:
        return left + (width - left - right) * value / max(tokens)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - min(value, high)) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        ' font-family="sans-serif" font-size="12" fill="#777">',
        f"<title>{escape(title)}</title>",
        f'<text x="{left}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for tick in range(6):
        value = low + (high - low) * tick / 5
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
            ' stroke="#999" stroke-opacity="0.35"/>'
            f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>'
        )
        at = max(tokens) * tick / 5
        parts.append(
            f'<text x="{x(at):.1f}" y="{height - bottom + 18}" text-anchor="middle">{at:.4g}</text>'
        )
    parts.append(
        f'<text x="{(left + width) / 2:.0f}" y="{height - 8}" text-anchor="middle">'
        "million tokens; loss in nats per token</text>"
    )
    for number, (name, losses) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        way = _path([(x(t), y(v)) for t, v in zip(tokens, losses, strict=True)])
        parts.append(f'<path d="{way}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(lines) > 1:
            parts.append(
                f'<text x="{width - right}" y="{top + 16 * (number + 1)}" text-anchor="end"'
                f' fill="{colour}">{escape(name)}</text>'
            )
    return "\n".join([*parts, "</svg>\n"])


def _path(points: Sequence[tuple[float, float]]) -> str:
    """A line through points, from each to the next in tenths of a pixel: short to write."""
    tenths = [(round(10 * x), round(10 * y)) for x, y in points]
    steps = [((a - c) / 10, (b - d) / 10) for (a, b), (c, d) in zip(tenths[1:], tenths)]
    start = "M{:g} {:g}".format(*(one / 10 for one in tenths[0]))
    return start + "l" + " ".join(f"{dx:g} {dy:g}".replace(" -", "-") for dx, dy in steps)


def _range(lines: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The lowest and highest loss to draw, on fifths; the first hundredth of a run is cut off."""
    low = math.floor(min(map(min, lines)) * 5) / 5
    high = math.ceil(max(max(losses[len(losses) // 100 :]) for losses in lines) * 5) / 5
    return low, max(high, low + 0.2)
