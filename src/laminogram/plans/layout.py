"""Where the parts of a plan's diagram stand, in cells: a column is a letter, a row a line.

The stream runs from left to right through boxes; branches lie under each other between a fork and a
join; a loop has a frame; a row that is full turns down and goes on from the left. `diagram` draws
the marks as text or as SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from laminogram.plans.plan import Plan
from laminogram.plans.shape import Branches, Loop, Run, Shape, shape_of, shape_text

Tone = Literal["up", "down", "attn", "ffn", "kind", "end", "text"]
GAP = 4  # columns of a line between two boxes
LEAD = 3  # columns between a fork and its branches, a frame and its body, a turn and its row
MOST_LISTED = 5
MOST_IN_SEQUENCE = 400
LEAST_WIDTH = 14


@dataclass(frozen=True)
class Box:
    """A label on the stream: layers, the kind of a group, or an end of the stack."""

    x: int
    y: int
    width: int
    label: str
    tone: Tone


@dataclass(frozen=True)
class Line:
    """The stream from column `x` over `width` columns, with an arrowhead at its end."""

    x: int
    y: int
    width: int
    arrow: bool = False


@dataclass(frozen=True)
class Fork:
    """From one row to several, or back where it does not open; LEAD columns wide."""

    x: int
    y: int
    rows: tuple[int, ...]
    opens: bool


@dataclass(frozen=True)
class Frame:
    """A frame around a loop's body, `title` in its upper edge."""

    x: int
    y: int
    width: int
    height: int
    title: str


@dataclass(frozen=True)
class Turn:
    """From the end of a row at (x, y) back to the start of the row `to`, through row `between`."""

    x: int
    y: int
    left: int
    between: int
    to: int


Mark = Box | Line | Fork | Frame | Turn


@dataclass(frozen=True)
class Block:
    """Marks in a rectangle. The stream comes in at the left in row `enter` and leaves in row
    `leave` at column `end`; None is the right edge, else a longer row lies above."""

    width: int
    height: int
    enter: int
    leave: int
    marks: tuple[Mark, ...]
    end: int | None = None


def lay_out(plan: Plan, width: int) -> Block:
    """The whole diagram of a plan, at most `width` columns wide where its parts can be broken."""
    width = max(width, 3 * LEAST_WIDTH)
    inner = _blocks(shape_of(plan), width - 2 * LEAD)
    return _sequence([_box("embed", "end"), *inner, _box("head", "end")], width)


def _blocks(shapes: Sequence[Shape], width: int) -> list[Block]:
    """A block for each shape; of very many the middle ones are only counted."""
    if len(shapes) <= MOST_IN_SEQUENCE:
        return [_block(shape, width) for shape in shapes]
    kept = MOST_IN_SEQUENCE // 2
    more = _box(f"⋯ {len(shapes) - 2 * kept} more ⋯", "text")
    return [*_blocks(shapes[:kept], width), more, *_blocks(shapes[-kept:], width)]


def _block(shape: Shape, width: int) -> Block:
    if isinstance(shape, Run):
        return _run(shape)
    inner = width - 2 * LEAD - (0 if isinstance(shape, Loop) else _kind_width(shape))
    if inner < LEAST_WIDTH:
        return _box(_clipped(str(shape), max(width, LEAST_WIDTH) - 2), "text")
    return _loop(shape, inner) if isinstance(shape, Loop) else _group(shape, inner)


def _run(run: Run) -> Block:
    half = run.first.part
    falls = run.last.layer < run.first.layer
    tone: Tone = half if half != "both" else "down" if falls else "up"
    # Longer runs are a little wider; by an even number, so that the label stays in the middle.
    return _box(str(run), tone, more=2 * min(run.count // 8, 5))


def _box(label: str, tone: Tone, more: int = 0) -> Block:
    width = len(label) + 2 + more
    return Block(width, 1, 0, 0, (Box(0, 0, width, label, tone),))


def _clipped(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _loop(loop: Loop, inner: int) -> Block:
    body = _body(loop.body, inner)
    width, height = max(body.width + 2 * LEAD, len(loop_title(loop)) + 5), body.height + 2
    enter, leave = body.enter + 1, body.leave + 1
    end = LEAD + body.width
    marks: list[Mark] = [
        Frame(0, 0, width, height, loop_title(loop)),
        Line(0, enter, LEAD, arrow=True),
        Line(end, leave, width - end),
    ]
    return Block(width, height, enter, leave, (*marks, *_moved(body, LEAD, 1)))


def loop_title(loop: Loop) -> str:
    """How often a loop runs, as its frame says it."""
    return f"{loop.times}×"


def _body(shapes: Sequence[Shape], width: int) -> Block:
    """Shapes in sequence; where there are none, the stream passes as it is. The last row is led to
    the right edge, where a join or a frame waits for it."""
    if not shapes:
        return _box("none", "end")
    block = _sequence(_blocks(shapes, width - 2 * LEAD), width)
    if block.end is None or block.end == block.width:
        return block
    rest = Line(block.end, block.leave, block.width - block.end)
    return replace(block, marks=(*block.marks, rest), end=None)


def _many(group: Branches) -> bool:
    """Whether the branches are too many single layers to be shown one by one."""
    return group.listed is not None and len(group.branches) > MOST_LISTED


def _kind_label(group: Branches) -> str:
    return f"{group.kind} of {len(group.branches)}" if _many(group) else group.kind


def _kind_width(group: Branches) -> int:
    return len(_kind_label(group)) + 2


def _group(group: Branches, inner: int) -> Block:
    rows = list(_rows(group, inner))
    widest = max(block.width for block, _ in rows)
    marks: list[Mark] = []
    enters, leaves = [], []
    y = 0
    for block, joined in rows:
        marks += _moved(block, LEAD, y)
        if joined:
            enters.append(y + block.enter)
            leaves.append(y + block.leave)
            rest = widest - block.width
            if rest:
                marks.append(Line(LEAD + block.width, leaves[-1], rest))
        y += block.height
    middle = (min(enters + leaves) + max(enters + leaves)) // 2
    kind = _box(_kind_label(group), "kind")
    end = LEAD + widest + LEAD
    marks += [
        Fork(0, middle, tuple(enters), opens=True),
        Fork(LEAD + widest, middle, tuple(leaves), opens=False),
        *_moved(kind, end, middle),
    ]
    return Block(end + kind.width, y, middle, middle, tuple(marks))


def _rows(group: Branches, inner: int) -> Iterator[tuple[Block, bool]]:
    """The branches from top to bottom, and whether each is joined to the stream. Of many single
    layers the first and the last are shown."""
    many = _many(group)
    for number, branch in enumerate(group.branches):
        if not many or number in (0, 1, len(group.branches) - 1):
            yield _body(branch, inner), True
        elif number == 2:
            between = group.branches[2:-1]
            told = _clipped(f"⋮ {_between(between)}", inner)
            yield Block(len(told), 1, 0, 0, (Box(0, 0, len(told), told, "text"),)), False


def _between(branches: Sequence[Sequence[Shape]]) -> str:
    return f"{len(branches)} more" if len(branches) > 1 else shape_text(branches[0])


def _sequence(blocks: Sequence[Block], width: int) -> Block:
    """Blocks one after the other, in as many rows as the width asks for."""
    rows = [_row(row) for row in _broken(blocks, width)]
    first, *others = rows
    marks: list[Mark] = list(first.marks)
    x, y, height = first.width, first.leave, first.height
    widest = x + (LEAD if others else 0)
    for number, row in enumerate(others, 1):
        top = height + 1  # below the row in which the turn goes back
        marks.append(Turn(x, y, 0, height, top + row.enter))
        marks += _moved(row, LEAD, top)
        x, y, height = LEAD + row.width, top + row.leave, top + row.height
        widest = max(widest, x + (LEAD if number < len(others) else 0))
    return Block(widest, height, first.enter, y, tuple(marks), end=x)


def _broken(blocks: Sequence[Block], width: int) -> list[list[Block]]:
    rows: list[list[Block]] = [[]]
    used = 0
    for number, block in enumerate(blocks):
        turns = LEAD if number < len(blocks) - 1 else 0
        if rows[-1] and used + GAP + block.width + turns > width:
            rows.append([])
            used = LEAD - GAP
        used += (GAP if rows[-1] or len(rows) > 1 else 0) + block.width
        rows[-1].append(block)
    return rows


def _row(blocks: Sequence[Block]) -> Block:
    """Blocks side by side, what leaves one at the height at which it enters the next."""
    tops = [0]
    for before, block in pairwise(blocks):
        tops.append(tops[-1] + before.leave - block.enter)
    highest = min(tops)
    marks: list[Mark] = []
    x = height = y = 0
    for number, (block, top) in enumerate(zip(blocks, tops)):
        y = top - highest
        if number:
            marks.append(Line(x, y + block.enter, GAP, arrow=True))
            x += GAP
        marks += _moved(block, x, y)
        x, height = x + block.width, max(height, y + block.height)
    return Block(x, height, blocks[0].enter - highest, y + blocks[-1].leave, tuple(marks))


def _moved(block: Block, dx: int, dy: int) -> list[Mark]:
    return [_shift(mark, dx, dy) for mark in block.marks]


def _shift(mark: Mark, dx: int, dy: int) -> Mark:
    if isinstance(mark, Fork):
        rows = tuple(row + dy for row in mark.rows)
        return replace(mark, x=mark.x + dx, y=mark.y + dy, rows=rows)
    if isinstance(mark, Turn):
        return Turn(mark.x + dx, mark.y + dy, mark.left + dx, mark.between + dy, mark.to + dy)
    return replace(mark, x=mark.x + dx, y=mark.y + dy)
