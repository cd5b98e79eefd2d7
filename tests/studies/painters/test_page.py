"""The study's pictures: what they pack, and what a browser makes of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tests.infer.speaking import speaking_view
from tests.report.test_pictures import Shown, is_colourful
from tests.stacks import view_of

from laminogram.report.gallery import write_pictures
from laminogram.report.notebook import fragment
from laminogram.report.payload import decode_array
from laminogram.report.pictures.painters import picture, pictures
from laminogram.report.terminal import print_result
from laminogram.studies.painters import Painters, paint
from laminogram.studies.painters.measures import by_key

TEXTS = ("the old captain", "took his boat out to sea before dawn", "and saw the light")
TITLES = (
    "Summary of the variants",
    "Every sweep over the middle",
    "One layer left out, two swapped",
    "Iterations of parallel layers",
    "What each layer does to the stream",
)


@pytest.fixture(scope="module")
def result() -> Painters:
    return paint(speaking_view("llama"), texts=TEXTS, seeds=2, repeats=3, progress=False)


@pytest.fixture(scope="module")
def index(result: Painters, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paint") / "page"
    return write_pictures([*pictures(result), result.similarity], folder, {"kind": "paint"})


@pytest.fixture
def shown(browser, index) -> Iterator[Shown]:
    page = Shown(browser, index.as_uri(), accept_downloads=True)
    yield page
    page.close()


def test_pictures_hold_the_numbers_of_their_points(result: Painters) -> None:
    drawn = pictures(result)
    assert tuple(one.title for one in drawn) == TITLES
    loss = by_key(result.measures)["loss"]
    chart = next(c for c in drawn[2].data["charts"] if c["title"].startswith("Loss"))
    for series in chart["series"]:
        variant = series["name"].replace(" ", "_")
        known = {p.layer: v for p, v in zip(result.points, loss.values) if p.variant == variant}
        expected = [known[i].value if i in known else np.nan for i in range(3)]
        np.testing.assert_array_equal(decode_array(series["values"]), np.float32(expected))
        high = [known[i].high if i in known else np.nan for i in range(3)]
        np.testing.assert_array_equal(decode_array(series["high"]), np.float32(high))
    for one in drawn:
        assert one.csv is not None and len({len(row) for row in one.csv}) == 1
        assert len(one.csv) > 2 and len(one.alt) > 20
    shares = by_key(result.measures)["share"].values
    (grid,) = drawn[3].data["grids"]
    known = {
        (p.repeats, p.affected): v.value
        for p, v in zip(result.points, shares)
        if p.variant == "iterations"
    }
    best = max(range(1, 4), key=lambda again: known[again, 2])
    marked = [row[0] for row in grid["rows"] if row[1].startswith("▸")]
    assert marked == [str(best)]
    places = np.array(grid["places"], dtype=float)
    assert places.min() == 0 and places.max() == 1
    assert places[best - 1, 0] == places.max()


def test_a_part_of_the_variants_and_an_encoder_have_pictures_too() -> None:
    texts = [[3, 8, 1, 30, 7], [5, 9, 2]]
    some = paint(view_of("bert"), texts=texts, variants=["swap"], progress=False)
    assert [one.title for one in pictures(some)] == [TITLES[2], TITLES[4]]
    assert picture(some).title == TITLES[2]
    assert "Block Influence" in pictures(some)[1].alt
    assert "<iframe" in fragment(some)


def test_the_page_draws_curves_and_coloured_cells(shown: Shown, result: Painters) -> None:
    sections = shown.section("painters")
    assert sections.locator("h2").all_text_contents() == list(TITLES)
    canvas = sections.nth(0).locator("canvas[tabindex]").first
    png = Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")
    assert is_colourful(png)
    canvas.press("ArrowRight")
    assert shown.selection == {"M": "2"}
    read = sections.nth(1).locator(".chart-values").first.text_content()
    loss = by_key(result.measures)["loss"]
    skip = next(v for p, v in zip(result.points, loss.values) if p.variant == "skip")
    assert "M 2: " in read and f"skip {skip.value:.3g} ({skip.low:.3g} to {skip.high:.3g})" in read
    sections.nth(2).locator("canvas[tabindex]").first.press("ArrowRight")
    assert shown.selection["layer"] == "2"
    assert "layer 2: " in sections.nth(4).locator(".chart-values").first.text_content()
    cells = sections.nth(3).locator("td")
    found = cells.evaluate_all("all => all.map((c) => getComputedStyle(c).backgroundColor)")
    assert len(set(found)) > 1 and cells.count() == 3
    with shown.page.expect_download() as waiting:
        sections.nth(3).locator(".saves button", has_text="CSV").click()
    rows = list(csv.reader(io.StringIO(Path(waiting.value.path()).read_text("utf-8"))))
    assert rows[0][:4] == ["variant", "layer", "affected", "repeats"] and len(rows) == 4


def test_a_terminal_gets_every_point(result: Painters) -> None:
    out = io.StringIO()
    print_result(result, Console(file=out, width=10_000, color_system=None))
    said = out.getvalue()
    for name in (
        "layer calls",
        "ms_per_token",
        "full",
        "skip_one",
        "middle_repeat",
        "iterations",
        "Block Influence",
        "95 per cent",
    ):
        assert name in said, name
    loss = by_key(result.measures)["loss"].values
    assert all(f"{one.value:.4g} [" in said for one in loss[:4])
