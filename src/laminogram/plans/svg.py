"""A plan's diagram as SVG: one element with nothing from outside, no script and no style sheet.

Lines and letters take the colour of the text around them; the fills are see-through, so that the
picture stands on light and on dark pages alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from laminogram.plans.layout import LEAD, Box, Fork, Frame, Line, Mark, Turn, lay_out
from laminogram.plans.plan import Plan

COLUMN, ROW, BOX = 7.6, 26.0, 20.0
"""Pixels of a column, of a row, and of the height of a box in it."""
_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_FILLS = {"up": "#3d8fb0", "down": "#d07a3a", "attn": "#3d8fb0", "ffn": "#3d8fb0"}
_STREAM = 'fill="none" stroke="currentColor" stroke-opacity=".55" stroke-width="1.3"'


def svg(plan: Plan, width: int = 96, style: str = "") -> str:
    """The diagram as one SVG element, at most about `width` letters wide.

    Its accessible name is the plan's text. `style` is its style attribute, for pages that have no
    style sheet of their own.
    """
    block = lay_out(plan, width)
    wide, high = block.width * COLUMN, block.height * ROW
    # Frames first, then the stream, then the boxes upon it.
    order = sorted(block.marks, key=lambda mark: _ORDER.index(type(mark)))
    drawn = "".join(piece for mark in order for piece in _drawn(mark))
    name = escape(f"Plan: {plan}", quote=True)
    styled = f' style="{escape(style, quote=True)}"' if style else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{name}" '
        f'width="{_n(wide)}" height="{_n(high)}" viewBox="0 0 {_n(wide)} {_n(high)}"{styled} '
        f'font-family="{_FONT}" font-size="12.5">'
        f"<title>{escape(str(plan))}</title>{drawn}</svg>"
    )


_ORDER: list[type] = [Frame, Line, Fork, Turn, Box]


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _middle(row: float) -> float:
    return (row + 0.5) * ROW


def _drawn(mark: Mark) -> Iterator[str]:
    if isinstance(mark, Box):
        yield from _box(mark)
    elif isinstance(mark, Line):
        yield from _line(mark)
    elif isinstance(mark, Fork):
        yield from _fork(mark)
    elif isinstance(mark, Frame):
        yield from _frame(mark)
    else:
        yield from _turn(mark)


def _box(box: Box) -> Iterator[str]:
    x, wide, y = box.x * COLUMN, box.width * COLUMN, _middle(box.y)
    colour = _FILLS.get(box.tone)
    if box.tone in ("attn", "ffn"):
        # The half that runs is filled: the token mixer comes first.
        at = x if box.tone == "attn" else x + wide / 2
        yield _rect(at, y, wide / 2, f'fill="{colour}" fill-opacity=".3"')
        yield _rect(x, y, wide, f'fill="none" stroke="{colour}" stroke-dasharray="3 2"')
    elif colour is not None:
        yield _rect(x, y, wide, f'fill="{colour}" fill-opacity=".2" stroke="{colour}"')
    elif box.tone == "kind":
        yield _rect(x, y, wide, 'fill="none" stroke="currentColor" stroke-opacity=".55"', round=10)
    quiet = ' fill-opacity=".65"' if box.tone in ("end", "text") else ""
    yield (
        f'<text x="{_n(x + wide / 2)}" y="{_n(y + 4.4)}" text-anchor="middle" '
        f'fill="currentColor"{quiet}>{escape(box.label)}</text>'
    )


def _rect(x: float, y: float, wide: float, style: str, round: int = 5) -> str:
    return (
        f'<rect x="{_n(x)}" y="{_n(y - BOX / 2)}" width="{_n(wide)}" height="{_n(BOX)}" '
        f'rx="{round}" {style}/>'
    )


def _line(line: Line) -> Iterator[str]:
    start, end, y = line.x * COLUMN, (line.x + line.width) * COLUMN, _middle(line.y)
    yield f'<path d="M{_n(start)} {_n(y)}H{_n(end)}" {_STREAM}/>'
    if line.arrow:
        yield _arrow(end - 1, y)


def _arrow(x: float, y: float, direction: int = 1) -> str:
    back = x - 6 * direction
    return (
        f'<path d="M{_n(x)} {_n(y)}L{_n(back)} {_n(y - 3.4)}V{_n(y + 3.4)}Z" '
        'fill="currentColor" fill-opacity=".7"/>'
    )


def _fork(fork: Fork) -> Iterator[str]:
    near, far = fork.x * COLUMN, (fork.x + LEAD) * COLUMN
    if not fork.opens:
        near, far = far, near
    bend, y = (near + far) / 2, _middle(fork.y)
    for row in fork.rows:
        at = _middle(row)
        yield (
            f'<path d="M{_n(near)} {_n(y)}C{_n(bend)} {_n(y)} {_n(bend)} {_n(at)} '
            f'{_n(far)} {_n(at)}" {_STREAM}/>'
        )


def _frame(frame: Frame) -> Iterator[str]:
    x, y = frame.x * COLUMN, frame.y * ROW + 5
    wide, high = frame.width * COLUMN, frame.height * ROW - 16
    yield (
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(wide)}" height="{_n(high)}" rx="9" '
        'fill="currentColor" fill-opacity=".045" stroke="currentColor" stroke-opacity=".4" '
        'stroke-dasharray="4 3"/>'
    )
    yield (
        f'<text x="{_n(x + 10)}" y="{_n(y + 15)}" fill="currentColor" font-weight="600">'
        f"{escape(frame.title)}</text>"
    )
    yield _arrow(x + wide / 2 - 3, y + high, -1)


def _turn(turn: Turn) -> Iterator[str]:
    right, left = (turn.x + LEAD - 1.2) * COLUMN, (turn.left + 0.6) * COLUMN
    start, end = turn.x * COLUMN, (turn.left + LEAD) * COLUMN
    above, between, below = _middle(turn.y), _middle(turn.between), _middle(turn.to)
    r = 7.0
    yield (
        f'<path d="M{_n(start)} {_n(above)}H{_n(right - r)}q{r} 0 {r} {r}V{_n(between - r)}'
        f"q0 {r} -{r} {r}H{_n(left + r)}q-{r} 0 -{r} {r}V{_n(below - r)}q0 {r} {r} {r}"
        f'H{_n(end)}" {_STREAM}/>'
    )
    yield _arrow(end - 1, below)
