"""Small multiples of line charts as one SVG, readable on light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a08000", "#56a4d8", "#888888", "#8a5fd0")
WIDTH, HEIGHT = 300, 230  # of one panel
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 30, 34
STYLE = (
    "path { fill: none } .dots { stroke-width: 4.8; stroke-linecap: round } "
    ".mark { stroke: #999; stroke-opacity: .35 } .end { text-anchor: end } "
    ".middle { text-anchor: middle }"
)


@dataclass
class Line:
    """Points joined by a line; `low` and `high` draw a whisker at each."""

    x: Sequence[float]
    y: Sequence[float]
    colour: str
    label: str = ""
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dash: str = ""
    width: float = 1.8


@dataclass
class Panel:
    """One chart; `ticks` names places on the x axis."""

    title: str
    lines: list[Line] = field(default_factory=list)
    ticks: Sequence[tuple[float, str]] = ()
    x_log: bool = False
    y_log: bool = False
    x_label: str = ""


def draw(title: str, panels: Sequence[Panel], columns: int = 3) -> str:
    """The SVG; the legend has each label once, below the title."""
    rows = math.ceil(len(panels) / columns)
    legend = {line.label: line for panel in panels for line in panel.lines if line.label}
    head = 30 + (20 * math.ceil(len(legend) / (2 * columns)) if legend else 0)
    width, height = columns * WIDTH, head + rows * HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        ' font-family="sans-serif" font-size="11" fill="#808080">',
        f"<style>{STYLE}</style><title>{escape(title)}</title>",
        f'<text x="10" y="18" font-size="14">{escape(title)}</text>',
    ]
    for number, (label, line) in enumerate(legend.items()):
        row, place = divmod(number, 2 * columns)
        x, y = 10 + place * WIDTH / 2, 38 + row * 20
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        parts.append(
            f'<line x1="{x:.0f}" x2="{x + 22:.0f}" y1="{y - 4}" y2="{y - 4}"'
            f' stroke="{line.colour}" stroke-width="2"{dash}/>'
            f'<text x="{x + 27:.0f}" y="{y}">{escape(label)}</text>'
        )
    for number, panel in enumerate(panels):
        at = (number % columns * WIDTH, head + number // columns * HEIGHT)
        parts += _panel(panel, *at)
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel, left: float, top: float) -> list[str]:
    finite = [
        (x, y)
        for line in panel.lines
        for ys in (line.y, line.low, line.high)
        for x, y in zip(line.x, ys, strict=False)
        if math.isfinite(y) and (y > 0 or not panel.y_log)
    ]
    if not finite:
        return []
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    to_x = _scale(min(xs), max(xs), left + LEFT + 6, left + WIDTH - RIGHT - 6, panel.x_log)
    low, high, marks = _marks(min(ys), max(ys), panel.y_log)
    to_y = _scale(low, high, top + HEIGHT - BOTTOM, top + TOP, panel.y_log)
    parts = [f'<text x="{left + LEFT:.0f}" y="{top + 18:.0f}">{escape(panel.title)}</text>']
    edge = left + LEFT - 6
    for mark in marks:
        parts.append(
            f'<path d="M{left + LEFT} {to_y(mark):.1f}H{left + WIDTH - RIGHT}" class="mark"/>'
            f'<text x="{edge}" y="{to_y(mark) + 4:.1f}" class="end">{mark:g}</text>'
        )
    bottom = top + HEIGHT - BOTTOM
    parts += [
        f'<text x="{to_x(x):.1f}" y="{bottom + 14:.0f}" class="middle">{escape(name)}</text>'
        for x, name in panel.ticks
        if panel.x_log or min(xs) <= x <= max(xs)
    ]
    middle = left + (LEFT + WIDTH) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{bottom + 28:.0f}" class="middle">'
        f"{escape(panel.x_label)}</text>"
    )
    for line in panel.lines:
        parts += _line(line, to_x, to_y, panel.y_log)
    return parts


def _line(line: Line, to_x, to_y, log: bool) -> list[str]:
    def shown(y: float) -> bool:
        return math.isfinite(y) and (y > 0 or not log)

    places = [(to_x(x), to_y(y)) for x, y in zip(line.x, line.y, strict=True) if shown(y)]
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    points = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [f'<path d="M{points}" stroke="{line.colour}" stroke-width="{line.width}"{dash}/>']
    if line.width > 1.5:  # a line of no length has round ends
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
        parts.append(f'<path d="{dots}" stroke="{line.colour}" class="dots"/>')
    spans = zip(line.x, line.low, line.high, strict=False)
    bars = [
        f"M{to_x(x):.1f} {to_y(low):.1f}V{to_y(high):.1f}"
        for x, low, high in spans
        if shown(low) and shown(high)
    ]
    if bars:
        parts.append(f'<path d="{"".join(bars)}" stroke="{line.colour}"/>')
    return parts


def _scale(low: float, high: float, start: float, end: float, log: bool):
    if log:
        low, high = math.log(low), math.log(high)
    span = high - low or 1.0

    def place(value: float) -> float:
        value = math.log(value) if log else value
        return start + (end - start) * (value - low) / span

    return place


def _marks(low: float, high: float, log: bool) -> tuple[float, float, list[float]]:
    """The ends of an axis and its marks: 1, 2 and 5 times powers of ten."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        steps = (1,) if last - first > 3 else (1, 2, 5) if high > 8 * low else (1, 1.5, 2, 3, 5, 7)
        marks = [k * 10.0**n for n in range(first, last + 1) for k in steps]
        inner = [m for m in marks if low <= m <= high]
        return min([low, *inner]), max([high, *inner]), inner
    low = min(low, 0.0)
    raw = (high - low) / 4 or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= raw)
    marks = [step * n for n in range(math.floor(low / step), math.ceil(high / step) + 1)]
    return marks[0], marks[-1], [round(m, 10) for m in marks]
