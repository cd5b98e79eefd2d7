"""Diagrams: what they show, that they fit, and that they need nothing from outside."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plans.drawn import plans

from laminogram.plans import Plan
from laminogram.plans.diagram import html, page, text
from laminogram.plans.layout import Box, Frame, lay_out
from laminogram.plans.shape import shape_of, shape_text
from laminogram.plans.svg import svg

SVG = "{http://www.w3.org/2000/svg}"
LONG = Plan(random.Random(0).sample(range(300), 300))


@given(plans())
def test_the_shape_of_a_plan_is_its_text(plan):
    assert shape_text(shape_of(plan)) == str(plan)


def drawing(*lines: str) -> str:
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("0-4", drawing(" embed ──▶ [0-4]──▶  head")),
        ("none", drawing(" embed ──▶  head")),
        ("0-3, 6-4", drawing(" embed ──▶ [0-3]──▶ [6-4]──▶  head")),
        (
            "0, mean(4-6 | 7, 8), 9",
            drawing(
                " embed ──▶ [0]──▶ ┬─ [4-6]──┬(mean)──▶ [9]──▶  head",
                "                  ╰─ [7-8]──╯",
            ),
        ),
        (
            "0, 17x(16), 9",
            drawing(
                "                  ╭─ 17× ──╮",
                " embed ──▶ [0]──▶ ┼▶ [16]──┼──▶ [9]──▶  head",
                "                  ╰───◀────╯",
            ),
        ),
        (
            "mean(8-24)",
            drawing(
                "           ╭─ [8]────────╮",
                " embed ──▶ ┼─ [9]────────┼(mean of 17)──▶  head",
                "           │  ⋮ 14 more  │",
                "           ╰─ [24]───────╯",
            ),
        ),
    ],
)
def test_drawn_in_letters(plan, expected):
    assert text(Plan.parse(plan)) == expected


def test_a_full_row_turns_and_goes_on_from_the_left():
    lines = text(Plan([3, 1, 4, 0, 5, 2]), 42).splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 42
    assert lines[0].endswith("─╮") and lines[1][0] == "╭" and lines[2].startswith("╰▶ [")
    assert re.findall(r"\d+", drawing(*lines)) == list("314052")


@given(plans(min_size=1), st.integers(42, 120))
@settings(deadline=None, max_examples=60)
def test_marks_stay_inside_and_boxes_apart(plan, width):
    block = lay_out(plan, width)
    cells = set()
    for mark in block.marks:
        if isinstance(mark, Frame):
            assert mark.x >= 0 and mark.x + mark.width <= block.width
            assert mark.y >= 0 and mark.y + mark.height <= block.height
        elif isinstance(mark, Box):
            own = {(x, mark.y) for x in range(mark.x, mark.x + mark.width)}
            assert not cells & own
            cells |= own
    assert all(0 <= x < block.width and 0 <= y < block.height for x, y in cells)
    lines = text(plan, width).splitlines()
    assert len(lines) == block.height and max(map(len, lines)) <= block.width


@given(plans(halves=False).filter(lambda plan: not plan.groups), st.integers(42, 120))
def test_every_layer_of_a_sequence_is_named(plan, width):
    labels = re.findall(r"\d+(?:-\d+)?", re.sub(r"\d+×", "", text(plan, width)))
    assert {step.layer for label in labels for step in Plan.parse(label)} == set(plan.layers)


@pytest.mark.parametrize("plan", [LONG, Plan(list(LONG) * 10 + [0])])
def test_long_plans_stay_readable(plan):
    lines = text(plan, 80).splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) < 150
    assert len(svg(plan)) < 400_000


@pytest.mark.parametrize("inner", ["0", "0, 1"])
def test_deep_nesting_ends_in_text(inner):
    plan = Plan.parse("mean(" * 49 + inner + " | 2)" * 49)
    assert "…" in text(plan, 80)
    assert max(map(len, text(plan, 80).splitlines())) <= 80


@given(plans())
@settings(deadline=None, max_examples=40)
def test_svg_is_one_element_that_asks_for_nothing(plan):
    drawn = svg(plan)
    root = ElementTree.fromstring(drawn)
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    assert root.get("aria-label") == f"Plan: {plan}"
    assert root.find(f"{SVG}title").text == str(plan)
    assert {one.tag for one in root.iter()} <= {
        f"{SVG}{t}" for t in ("svg", "title", "text", "rect", "path")
    }
    assert not any(
        name.startswith("on") or name in ("href", "style", "class", "id")
        for one in root.iter()
        for name in one.attrib
    )
    wide, high = float(root.get("width")), float(root.get("height"))
    for one in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(one.get(name)) for name in ("x", "y", "width", "height"))
        assert x >= 0 and y >= 0 and x + w <= wide + 0.2 and y + h <= high + 0.2


def test_a_plan_shows_itself_in_a_notebook():
    plan = Plan.parse("0-7, 3x(mean(8-24)), 25-31")
    assert plan._repr_html_() == html(plan)
    assert "<svg" in html(plan) and "66 layer calls" in html(plan)


def test_a_page_is_whole_and_escapes_what_it_is_told():
    whole = page(Plan([0]), "<b>&", ["<script>"])
    assert "<b>&<" not in whole and "<script" not in whole and "&lt;script&gt;" in whole
    assert "http" not in whole.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_the_page(browser, scheme, tmp_path: Path):
    path = tmp_path / "plan.html"
    path.write_text(page(Plan.parse("0-3, 2x(mean(4-6 | 7, 8 | none)), 24-9"), "A plan"))
    context = browser.new_context(color_scheme=scheme, viewport={"width": 400, "height": 600})
    opened = context.new_page()
    complaints, requests = [], []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(path.as_uri())
    picture = opened.locator("svg")
    assert picture.bounding_box()["width"] <= 400
    label = picture.locator("text").first.evaluate("node => getComputedStyle(node).fill")
    ground = opened.evaluate("() => getComputedStyle(document.body).backgroundColor")
    ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (label, ground))
    assert abs(ink - paper) > 300
    assert complaints == [] and requests == [path.as_uri()]
    context.close()
