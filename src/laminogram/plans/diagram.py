"""A plan as a picture: in the terminal, as SVG, and as a page of its own.

    print(text(Plan.parse("0-7, 3x(mean(8-24)), 25-31")))

The SVG asks for nothing from outside, holds no script and no style sheet, and takes its ink from
the text around it, so that it stands on light and on dark pages alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from laminogram.plans.layout import LEAD, Block, Box, Fork, Frame, Line, Turn, lay_out
from laminogram.plans.plan import Plan
from laminogram.plans.svg import svg

UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
_STROKES = {
    UP: "│", DOWN: "│", UP | DOWN: "│", LEFT: "─", RIGHT: "─", LEFT | RIGHT: "─",
    DOWN | RIGHT: "╭", DOWN | LEFT: "╮", UP | RIGHT: "╰", UP | LEFT: "╯",
    UP | DOWN | RIGHT: "├", UP | DOWN | LEFT: "┤", LEFT | RIGHT | DOWN: "┬",
    LEFT | RIGHT | UP: "┴", UP | DOWN | LEFT | RIGHT: "┼",
}  # fmt: skip
_EDGES = {"kind": "()", "end": "  ", "text": "  "}


def text(plan: Plan, width: int = 80) -> str:
    """The diagram in letters, at most about `width` columns wide; no colour codes."""
    block = lay_out(plan, width)
    canvas = _Canvas(block)
    for mark in block.marks:
        canvas.draw(mark)
    return str(canvas)


class _Canvas:
    """Strokes as the directions in which each cell is joined, and letters over them."""

    def __init__(self, block: Block) -> None:
        self.strokes = [[0] * block.width for _ in range(block.height)]
        self.letters: dict[tuple[int, int], str] = {}

    def draw(self, mark: Box | Line | Fork | Frame | Turn) -> None:
        getattr(self, f"_{type(mark).__name__.lower()}")(mark)

    def __str__(self) -> str:
        rows = (
            "".join(
                self.letters.get((x, y)) or (_STROKES[stroke] if stroke else " ")
                for x, stroke in enumerate(row)
            )
            for y, row in enumerate(self.strokes)
        )
        return "\n".join(row.rstrip() for row in rows)

    def _write(self, x: int, y: int, letters: str) -> None:
        for at, letter in enumerate(letters):
            self.letters[x + at, y] = letter

    def _across(self, x: int, end: int, y: int) -> None:
        """A stroke from the middle of cell `x` to the middle of cell `end`."""
        for at in range(x, end + 1):
            self.strokes[y][at] |= (LEFT if at > x else 0) | (RIGHT if at < end else 0)

    def _down(self, x: int, y: int, end: int) -> None:
        for at in range(y, end + 1):
            self.strokes[at][x] |= (UP if at > y else 0) | (DOWN if at < end else 0)

    def _box(self, box: Box) -> None:
        if len(box.label) == box.width:
            self._write(box.x, box.y, box.label)
            return
        edges = _EDGES.get(box.tone, "[]")
        self._write(box.x, box.y, edges[0] + box.label.center(box.width - 2) + edges[1])

    def _line(self, line: Line) -> None:
        end = line.x + line.width - 1
        for at in range(line.x, end + 1):
            self.strokes[line.y][at] |= LEFT | RIGHT
        if line.arrow:
            self._write(end - 1, line.y, "▶ ")

    def _fork(self, fork: Fork) -> None:
        x = fork.x if fork.opens else fork.x + LEAD - 1
        self._down(x, min(fork.y, *fork.rows), max(fork.y, *fork.rows))
        self.strokes[fork.y][x] |= LEFT if fork.opens else RIGHT
        for row in fork.rows:
            self._across(fork.x, fork.x + LEAD - 1, row)
            if fork.opens:
                self._write(fork.x + LEAD - 1, row, " ")
            else:
                self.strokes[row][fork.x] |= LEFT

    def _frame(self, frame: Frame) -> None:
        right, bottom = frame.x + frame.width - 1, frame.y + frame.height - 1
        for y in (frame.y, bottom):
            self._across(frame.x, right, y)
        for x in (frame.x, right):
            self._down(x, frame.y, bottom)
        self._write(frame.x + 2, frame.y, f" {frame.title} ")
        self._write((frame.x + right) // 2, bottom, "◀")

    def _turn(self, turn: Turn) -> None:
        corner = turn.x + LEAD - 2
        self.strokes[turn.y][turn.x] |= LEFT
        self._across(turn.x, corner, turn.y)
        self._down(corner, turn.y, turn.between)
        self._across(turn.left, corner, turn.between)
        self._down(turn.left, turn.between, turn.to)
        self._across(turn.left, turn.left + 1, turn.to)
        self._write(turn.left + 1, turn.to, "▶")


_SHRINK = "max-width:100%;height:auto"


def html(plan: Plan) -> str:
    """The diagram as a piece of a page: the SVG, under it the plan's text and its cost."""
    cost = escape(str(plan.cost()))
    return (
        f"<figure>{svg(plan, style=_SHRINK)}<figcaption><code>{escape(str(plan))}</code><br>"
        f"<small>{cost}</small></figcaption></figure>"
    )


def page(plan: Plan, title: str = "", notes: Iterable[str] = ()) -> str:
    """The diagram as a page of its own, offline, light or dark as the reader has it."""
    heading = f"<h1>{escape(title)}</h1>" if title else ""
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in notes)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>{escape(title or f"Plan {plan}")}</title>'
        f"<style>{_PAGE_STYLE}</style></head><body>{heading}{html(plan)}{paragraphs}</body></html>\n"
    )


_PAGE_STYLE = (
    ":root{color-scheme:light dark}body{max-width:60rem;margin:2.5rem auto;padding:0 1.25rem;"
    "font:15px/1.55 system-ui,sans-serif;color:#1c2226;background:#fbfaf7}h1{font-size:1.3rem;"
    "font-weight:600}figure{margin:0 0 1rem}figcaption{margin-top:.75rem;overflow-wrap:anywhere}"
    "small,p{color:#66707a}@media(prefers-color-scheme:dark){body{color:#e6e9ea;"
    "background:#101417}small,p{color:#93a0a8}}"
)
