"""The EEG's page in a real browser: saving, links, bands, and the colours of the stills."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from laminogram.report.colour import heat_table
from laminogram.report.eeg import Look, write_eeg
from laminogram.report.page_data import Shown
from laminogram.report.still import Stills
from laminogram.studies.study import Study

pytestmark = pytest.mark.browser

TEXT = "One word after another, and so on to the end of a line."
GUTTER, EDGE = 44, 10
BOTH_THEMES = pytest.mark.parametrize("theme", ["light", "dark"])


def pixels_of(canvas: Any) -> np.ndarray:
    """What a canvas shows, (height, width, 4) in 0..255. As a picture: numbers would be a list of
    millions, which takes seconds to hand over."""
    _, _, picture = canvas.evaluate("canvas => canvas.toDataURL()").partition(",")
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        return np.asarray(image.convert("RGBA")).astype(int)


@pytest.fixture(scope="module")
def study(synthetic) -> Study:
    return synthetic.fake_study(TEXT)


@pytest.fixture(scope="module")
def index(study, tmp_path_factory) -> Path:
    return write_eeg(study, tmp_path_factory.mktemp("eeg") / "a #1.html")


@pytest.fixture
def context(browser, theme) -> Iterator[Any]:
    context = browser.new_context(
        color_scheme=theme, offline=True, viewport={"width": 1400, "height": 1000}
    )
    yield context
    context.close()


@pytest.fixture
def page(context, index) -> Iterator[Any]:
    page = context.new_page()
    seen: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    page.on("console", lambda m: complaints.append(m.text) if m.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    open_page(page, index)
    yield page
    assert [url for url in seen if not url.startswith(("file:", "data:", "blob:"))] == []
    assert complaints == []


def open_page(page: Any, index: Path, fragment: str = "") -> None:
    page.goto(index.as_uri() + fragment)
    page.wait_for_selector("html[data-ready]", timeout=30_000)


def moment(page: Any) -> int:
    return int(page.locator("#place").get_attribute("data-index"))


def download(page: Any, button: str) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.locator(button).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_the_csv_holds_the_values_of_the_moment(page, study):
    page.locator("#scrub").fill("6")
    name, raw = download(page, ".save-csv")
    assert name == "tiny-llama-tiny-rwkv4-ffn_out-6.csv"
    rows = list(csv.DictReader(io.StringIO(raw.decode("utf-8"), newline="")))
    for record, token in zip(study.records, study.frames[6], strict=True):
        mine = [row for row in rows if row["model"] == record.name]
        found = np.array([float(row["ffn_out"]) for row in mine], np.float32)
        assert np.array_equal(found, record.values[:, token].ravel())
        assert {row["text"] for row in mine} == {record.token_texts[token]}
        assert [(mine[200]["layer"], mine[200]["channel"])] == [
            (str(200 // record.values.shape[2]), str(200 % record.values.shape[2]))
        ]


@BOTH_THEMES
def test_the_png_shows_the_moment_in_the_theme(page, theme):
    page.locator("#scrub").fill("4")
    name, raw = download(page, ".save-png")
    assert name.endswith("-4.png")
    with Image.open(io.BytesIO(raw)) as picture:
        assert picture.format == "PNG"
        assert picture.width > 2000
        pixels = np.asarray(picture.convert("RGB"))
    ground = (251, 250, 247) if theme == "light" else (16, 20, 23)
    assert tuple(pixels[3, 3]) == ground
    assert (pixels != ground).any(axis=2).mean() > 0.1


@BOTH_THEMES
def test_the_heat_map_has_the_colours_of_the_still(page, study, theme):
    """Cell by cell: the canvas in the browser against the picture that numpy and Pillow draw."""
    page.locator("#scrub").fill("5")
    page.mouse.move(2, 2)
    stills = Stills(Shown.of(study), theme=theme, width=1280)
    drawn = np.asarray(stills.draw(5)).astype(int)
    for panel, record in enumerate(study.records):
        canvas = page.locator(".panel canvas.heat").nth(panel)
        seen = pixels_of(canvas)[..., :3]
        width = seen.shape[1]
        rows, columns = record.values.shape[0], record.values.shape[2]
        left, top, right, _ = stills.heat_box(panel)
        cell, differ = (width - GUTTER - EDGE) / columns, []
        for row in range(rows):
            for column in range(columns):
                # Off the middle, so that marks on a cell are met less often.
                here = seen[int((row + 0.2) * 20), int(GUTTER + (column + 0.5) * cell)]
                there = drawn[top + int((row + 0.2) * 20),
                              left + int((column + 0.5) * (right - left) / columns)]  # fmt: skip
                differ.append(np.abs(here - there).max())
        # Names and outlines of marks lie over some cells in either picture.
        assert np.mean(np.array(differ) <= 1) > 0.85


@BOTH_THEMES
def test_the_legend_is_the_colour_table(page, theme):
    row = pixels_of(page.locator("canvas.legend"))[8, :, :3]
    table = heat_table(theme)[:256].astype(int)
    wide = len(row) - 44
    for x in range(4, wide - 4, 7):
        index = round((2 * x / wide - 1 + 1) * 127.5)
        near = table[max(0, index - 2) : index + 3]
        assert np.abs(near - row[22 + x]).max(axis=1).min() <= 2


def test_the_state_is_in_the_address_and_a_link_brings_it_back(page, context, study):
    page.locator("#scrub").fill("7")
    page.locator("input[value=linear]").check()
    canvas = page.locator(".panel canvas.heat").nth(1)
    canvas.scroll_into_view_if_needed()
    channels = study.records[1].values.shape[2]
    width = canvas.evaluate("canvas => canvas.clientWidth")
    x = GUTTER + 40.5 / channels * (width - GUTTER - EDGE)
    canvas.click(position={"x": x, "y": 3.5 * 20})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".copy-link").click()
    page.wait_for_timeout(50)
    assert page.locator(".copy-link").text_content() == "Copied"
    link = page.evaluate("() => navigator.clipboard.readText()")
    assert link == page.url
    first = study.records[0].peaks[0]
    state = parse_qs(urlsplit(link).fragment)
    assert state == {
        "token": ["7"], "scale": ["linear"],
        "layer": [f"{first.row},3"], "channel": [f"{first.channel},40"],
    }  # fmt: skip
    other = context.new_page()
    other.goto(link)
    other.wait_for_selector("html[data-ready]", timeout=30_000)
    assert moment(other) == 7
    assert other.locator("input[value=linear]").is_checked()
    found = other.locator(".readout").nth(1).evaluate("node => ({...node.dataset})")
    assert (found["layer"], found["channel"]) == ("3", "40")
    assert "Linear" in other.locator(".legend-text").text_content()


@pytest.mark.parametrize(
    "fragment",
    ["#token=99999&scale=cubic&layer=77,&channel=1,2", "#token=-1&layer=x", "#<p>", "#channel=1"],
)
def test_a_strange_address_does_no_harm(browser, index, study, fragment):
    complaints: list[str] = []
    page = browser.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    open_page(page, index, fragment)
    assert 0 <= moment(page) < len(study.frames)
    assert page.locator("input[value=symlog]").is_checked()
    assert page.locator("#problem").text_content() == ""
    assert complaints == []
    page.close()


def test_a_changed_address_moves_the_page(page, index):
    page.evaluate("() => { location.hash = '#token=3'; }")
    page.wait_for_timeout(100)
    assert moment(page) == 3


def test_the_links_lead_to_the_numbers(page, index):
    targets = page.locator("main a, footer a").evaluate_all("nodes => nodes.map(n => n.pathname)")
    assert len(targets) > 6
    from urllib.parse import unquote

    for target in targets:
        assert Path(unquote(target)).is_file(), target


@BOTH_THEMES
def test_quantile_bands_are_drawn_behind_the_traces(browser, synthetic, tmp_path, theme):
    """At a moment where a trace is flat, what is behind it shows three shades, not one."""
    from dataclasses import replace

    record = synthetic.fake_record("one", "llama", TEXT, layers=2, channels=40)
    values = np.random.default_rng(0).standard_normal(record.values.shape).astype(np.float32)
    values[:, 0] = 0.0
    study = Study.of([replace(record, values=values)], TEXT)
    page = browser.new_page(color_scheme=theme)
    open_page(page, write_eeg(study, tmp_path / "x.html"))
    column = pixels_of(page.locator("canvas.traces"))[:, GUTTER + 200 : -200].reshape(-1, 4)
    shades = np.unique(column[column[:, 3] == 255, :3], axis=0)
    inks = page.evaluate("""() => ["band", "middle"].map(name =>
        getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim())""")
    for ink in inks:
        expected = np.array(list(bytes.fromhex(ink[1:])))
        assert (np.abs(expected - shades).max(axis=1) <= 3).any()
    page.close()


def test_full_pages_hold_every_channel_and_are_still_drawn(browser, synthetic, tmp_path):
    record = synthetic.fake_record("wide", "llama", "one two three", layers=3, channels=2500)
    study = Study.of([record], "one two three")
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    open_page(page, write_eeg(study, tmp_path / "x.html", Look(full=True)), "#layer=2&channel=1777")
    found = page.locator(".readout").evaluate("node => ({...node.dataset})")
    assert (found["layer"], found["channel"]) == ("2", "1777")
    assert np.float32(found["value"]) == record.values[2, 0, 1777]
    page.close()
