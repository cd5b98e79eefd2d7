"""Line charts, heat maps and grids side by side as one SVG, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#8a8a8a", "#d33f49", "#2f7fd1", "#c98a00", "#1f9d68", "#9256c7", "#12a3b4", "#7a5230")
DASHES = ("", "6 3", "", "2 3", "8 3 2 3", "", "4 2", "1 2")
WIDTH, HEIGHT = 400, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 30, 44
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #222 }
.title { font-weight: 600 } .cell { fill: #2f7fd1 }
.grid { stroke: #0002 } .axis, .mark { stroke: #555; fill: none }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .grid { stroke: #fff3 } .axis, .mark { stroke: #aaa }
}
"""

Point = tuple[float, float]
Range = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """Points (x, y) in the order of x; errors: the low and high end at each, where known."""

    name: str
    points: Sequence[Point]
    errors: Sequence[Range] = ()


@dataclass(frozen=True)
class Chart:
    """Lines over common axes; a level is a horizontal line with its name. ticks: what x = 0, 1,
    2... are called, where they are not numbers to scale."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log: bool = False
    levels: Sequence[tuple[str, float]] = ()
    ticks: Sequence[str] = ()


@dataclass(frozen=True)
class HeatMap:
    """A square matrix of numbers up to 1 and the places before which a group begins."""

    title: str
    axis: str
    values: Sequence[Sequence[float]]
    cuts: Sequence[int] = ()


@dataclass(frozen=True)
class Grid:
    """Rows and columns of cells with their text, shaded from 0 to 1; marks: cells (row, column)
    with a frame."""

    title: str
    x: str
    y: str
    columns: Sequence[str]
    rows: Sequence[str]
    texts: Sequence[Sequence[str]]
    shades: Sequence[Sequence[float]]
    marks: Sequence[tuple[int, int]] = ()


Panel = Chart | HeatMap | Grid


def draw(panels: Sequence[Panel]) -> str:
    """The panels from left to right, with one legend for the names that they share."""
    names = list(
        dict.fromkeys(line.name for one in panels if isinstance(one, Chart) for line in one.lines)
    )
    legend, depth = _legend(names, WIDTH * len(panels))
    parts = [
        f'<g transform="translate({number * WIDTH} {depth})">{_panel(one, names)}</g>'
        for number, one in enumerate(panels)
    ]
    width, height = WIDTH * len(panels), HEIGHT + depth
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
    return f'{head} height="{height}"><style>{STYLE}</style>{legend}{"".join(parts)}</svg>\n'


def _legend(names: Sequence[str], width: int) -> tuple[str, int]:
    """The names in rows, and how high they are."""
    if not names:
        return "", 0
    parts, x, y = [], 10.0, 16
    for number, name in enumerate(names):
        wide = 38 + 7.0 * len(name)
        if x + wide > width:
            x, y = 10.0, y + 18
        parts.append(f'<path d="M{x:.0f} {y - 4}h22" {_stroke(number)}/>{_text(x + 27, y, name)}')
        x += wide
    return "".join(parts), y + 6


def _panel(panel: Panel, names: Sequence[str]) -> str:
    title = _text(LEFT, 18, panel.title, "title")
    if isinstance(panel, Chart):
        return title + _chart(panel, names)
    return title + (_heat(panel) if isinstance(panel, HeatMap) else _grid(panel))


def _chart(chart: Chart, names: Sequence[str]) -> str:
    xs = [x for line in chart.lines for x, _ in line.points]
    ys = [y for line in chart.lines for _, y in line.points] + [y for _, y in chart.levels]
    ys += [end for line in chart.lines for pair in line.errors for end in pair]
    x_ticks, y_ticks = sorted(set(xs)), _y_ticks(chart, ys)
    if len(x_ticks) > 12:
        x_ticks = _ticks(min(xs), max(xs))
    low, high = min(*ys, y_ticks[0]), max(*ys, y_ticks[-1])

    def across(x: float) -> float:
        return LEFT + 8 + (x - min(xs)) / (max(xs) - min(xs)) * (WIDTH - LEFT - RIGHT - 16)

    def up(y: float) -> float:
        scaled = [math.log(one) if chart.log else one for one in (y, low, high)]
        share = (scaled[0] - scaled[1]) / (scaled[2] - scaled[1])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    right, ground = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{ground}H{right}"/>']
    for y in y_ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {up(y):.1f}H{right}"/>')
        parts.append(_text(LEFT - 6, up(y) + 4, f"{y:g}", anchor="end"))
    for x in x_ticks:
        said = chart.ticks[int(x)] if chart.ticks else f"{x:g}"
        parts.append(_text(across(x), ground + 16, said, anchor="middle"))
    parts.append(_text((LEFT + right) / 2, ground + 34, chart.x, anchor="middle"))
    turned = f'transform="rotate(-90 14 {(TOP + ground) / 2})"'
    parts.append(_text(14, (TOP + ground) / 2, chart.y, anchor="middle", more=turned))
    for name, y in chart.levels:
        parts.append(f'<path class="mark" stroke-dasharray="3 3" d="M{LEFT} {up(y):.1f}H{right}"/>')
        parts.append(_text(right, up(y) - 4, name, anchor="end"))
    for line in chart.lines:
        stroke = _stroke(names.index(line.name))
        places = [(across(x), up(y)) for x, y in line.points]
        parts.append(f'<path d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in places)}" {stroke}/>')
        for x, y in places if len(places) < 15 else ():
            parts.append(_dot(x, y, names.index(line.name)))
        for (x, _), (bottom, top) in zip(places, line.errors):
            bar = f"M{x:.1f} {up(bottom):.1f}V{up(top):.1f}"
            parts.append(f'<path d="{bar}" {_stroke(names.index(line.name), thin=True)}/>')
    return "".join(parts)


def _heat(heat: HeatMap) -> str:
    count = len(heat.values)
    side = (HEIGHT - TOP - BOTTOM) / count
    parts = []
    for i, row in enumerate(heat.values):
        for j, value in enumerate(row):
            parts.append(_cell(LEFT + j * side, TOP + i * side, side, side, value))
    for i in range(0, count, 2):
        middle = (i + 0.5) * side
        parts.append(_text(LEFT - 6, TOP + middle + 4, str(i), anchor="end"))
        parts.append(_text(LEFT + middle, TOP + count * side + 16, str(i), anchor="middle"))
    for cut in heat.cuts:
        at = cut * side
        path = f"M{LEFT} {TOP + at:.1f}h{count * side:.1f}M{LEFT + at:.1f} {TOP}v{count * side:.1f}"
        parts.append(f'<path class="mark" d="{path}"/>')
    parts.append(_text(LEFT + count * side / 2, HEIGHT - 10, heat.axis, anchor="middle"))
    return "".join(parts)


def _grid(grid: Grid) -> str:
    wide, high = (
        (WIDTH - LEFT - RIGHT) / len(grid.columns),
        (HEIGHT - TOP - BOTTOM) / len(grid.rows),
    )
    parts = []
    for i, (texts, shades) in enumerate(zip(grid.texts, grid.shades, strict=True)):
        y = TOP + i * high
        parts.append(_text(LEFT - 6, y + high / 2 + 4, grid.rows[i], anchor="end"))
        for j, (text, shade) in enumerate(zip(texts, shades, strict=True)):
            x = LEFT + j * wide
            parts.append(_cell(x, y, wide, high, shade))
            parts.append(_text(x + wide / 2, y + high / 2 + 4, text, anchor="middle"))
    for i, j in grid.marks:
        path = f"M{LEFT + j * wide + 1:.1f} {TOP + i * high + 1:.1f}h{wide - 2:.1f}v{high - 2:.1f}"
        parts.append(f'<path class="mark" d="{path}h{2 - wide:.1f}z"/>')
    ground, middle = HEIGHT - BOTTOM, LEFT + (WIDTH - LEFT - RIGHT) / 2
    for j, name in enumerate(grid.columns):
        parts.append(_text(LEFT + (j + 0.5) * wide, ground + 16, name, anchor="middle"))
    parts.append(_text(middle, ground + 34, grid.x, anchor="middle"))
    turned = f'transform="rotate(-90 14 {(TOP + ground) / 2})"'
    parts.append(_text(14, (TOP + ground) / 2, grid.y, anchor="middle", more=turned))
    return "".join(parts)


def _cell(x: float, y: float, wide: float, high: float, shade: float) -> str:
    corners = f"M{x:.1f} {y:.1f}h{wide:.1f}v{high:.1f}h-{wide:.1f}z"
    return f'<path class="cell" d="{corners}" opacity="{max(0.0, shade):.2f}"/>'


def _y_ticks(chart: Chart, ys: Sequence[float]) -> list[float]:
    if not chart.log:
        return _ticks(min(ys), max(ys))
    decades = range(math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys))) + 1)
    ticks = [one * 10.0**decade for decade in decades for one in (1, 2, 5)]
    return [one for one in ticks if min(ys) / 1.3 <= one <= max(ys) * 1.3]


def _ticks(low: float, high: float) -> list[float]:
    """Some five round numbers between two others, and just outside."""
    rough = (high - low) / 5 or 1.0
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(one * scale for one in (1, 2, 5, 10) if one * scale >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(one * step, 10) for one in range(first, last + 1)]


def _stroke(number: int, thin: bool = False) -> str:
    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    drawn = f'fill="none" stroke="{colour}" stroke-width="{1 if thin else 2}"'
    return drawn if thin or not dash else f'{drawn} stroke-dasharray="{dash}"'


def _dot(x: float, y: float, number: int) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[number % len(COLOURS)]}"/>'


def _text(
    x: float, y: float, text: str, kind: str = "", anchor: str = "start", more: str = ""
) -> str:
    style = f'class="{kind}"' if kind else ""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" {style} {more}>{escape(text)}</text>'
    )
