"""The page in a real browser, without a network: drawn, played, scrubbed, hovered, pinned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laminogram.report.page_data import study_payload
from laminogram.report.study import write_study
from laminogram.studies.study import Study

pytestmark = pytest.mark.browser

GUTTER, EDGE = 44, 10
NASTY = (
    "a </script><script>window.evil=1</script> <img src=x onerror=window.evil=1> \u202e b\n\tc é🐍"
)


class Opened:
    """A page with what it asked for and complained about."""

    def __init__(self, context: Any, index: Path) -> None:
        self.page = context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "console",
            lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(index.as_uri())
        self.page.wait_for_selector("html[data-ready]", timeout=30_000)

    @property
    def index(self) -> int:
        return int(self.page.locator("#place").get_attribute("data-index"))

    def wait_for(self, reached: Callable[[int], bool], seconds: float = 20.0) -> None:
        # Playwright's own wait evaluates text inside the page, which the page's policy forbids.
        end = time.monotonic() + seconds
        while not reached(self.index):
            assert time.monotonic() < end, f"still at token {self.index} after {seconds} s"
            self.page.wait_for_timeout(20)

    def pixels(self, kind: str = "traces", panel: int = 0) -> str:
        canvas = self.page.locator(f".panel canvas.{kind}").nth(panel)
        return canvas.evaluate("canvas => canvas.toDataURL()")

    def readout(self, panel: int = 0) -> dict[str, str]:
        return self.page.locator(".readout").nth(panel).evaluate("node => ({...node.dataset})")

    def hover(self, panel: int, row: int, channel: int, rows: int, channels: int) -> None:
        """Points at a cell of the heat map."""
        canvas = self.page.locator(".panel canvas.heat").nth(panel)
        canvas.scroll_into_view_if_needed()
        width = canvas.evaluate("canvas => canvas.clientWidth")
        cell = min(20, 220 / rows)
        x = GUTTER + (channel + 0.5) / channels * (width - GUTTER - EDGE)
        canvas.hover(position={"x": x, "y": (row + 0.5) * cell})


@pytest.fixture(scope="module")
def study(synthetic) -> Study:
    return synthetic.fake_study()


@pytest.fixture(scope="module")
def index(study, tmp_path_factory) -> Path:
    return write_study(study, tmp_path_factory.mktemp("viewer") / "report")


@pytest.fixture
def opened(browser, index, theme) -> Iterator[Opened]:
    context = browser.new_context(
        color_scheme=theme, offline=True, viewport={"width": 1400, "height": 1000}
    )
    page = Opened(context, index)
    yield page
    outside = [url for url in page.requests if not url.startswith(("file:", "data:"))]
    assert outside == []
    assert page.requests.count(index.as_uri()) == len([u for u in page.requests if "file:" in u])
    assert page.complaints == []
    context.close()


def test_it_plays_and_pauses(opened):
    before = opened.pixels(), opened.pixels("heat"), opened.pixels("heat", 1)
    opened.page.locator("#speed").select_option("16")
    opened.page.locator(".play").click()
    opened.wait_for(lambda index: index >= 4)
    assert opened.page.locator(".play").get_attribute("aria-label") == "Pause"
    opened.page.locator(".play").click()
    stopped = opened.index
    after = opened.pixels(), opened.pixels("heat"), opened.pixels("heat", 1)
    assert all(a != b for a, b in zip(before, after, strict=True))
    opened.page.wait_for_timeout(250)
    assert opened.index == stopped
    assert (opened.pixels(), opened.pixels("heat"), opened.pixels("heat", 1)) == after


def test_frames_whose_clock_lags_do_not_step_back(browser, index):
    """A frame's time may lie before the click that asked for it, by much on a busy machine."""
    context = browser.new_context(offline=True)
    context.add_init_script(
        "const ask = window.requestAnimationFrame.bind(window);"
        "window.requestAnimationFrame = (then) => ask((now) => then(now - 5000));"
    )
    page = Opened(context, index)
    page.page.locator("#speed").select_option("16")
    page.page.locator(".play").click()
    page.wait_for(lambda index: index >= 3)
    context.close()
    assert page.complaints == []


def test_it_stops_at_the_end_and_starts_again(opened, study):
    opened.page.keyboard.press("End")
    assert opened.index == len(study.frames) - 1
    opened.page.locator("#speed").select_option("30")
    opened.page.keyboard.press("Space")
    opened.wait_for(lambda index: index < 10)
    last = len(study.frames) - 1
    opened.wait_for(lambda index: index == last)
    assert opened.page.locator(".play").get_attribute("aria-label") == "Play"


def test_scrubbing_and_keys_move_every_panel_in_lockstep(opened, study):
    opened.page.locator("#scrub").fill("17")
    assert opened.index == 17
    opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("ArrowLeft")
    assert opened.index == 18
    shown = [int(opened.readout(panel)["token"]) for panel in range(2)]
    assert tuple(shown) == study.frames[18]
    now = opened.page.locator(".token.now bdi").all_text_contents()
    assert now == [r.token_texts[t] for r, t in zip(study.records, shown, strict=True)]
    opened.page.keyboard.press("Home")
    assert opened.index == 0


def test_a_click_on_a_token_goes_there(opened, study):
    opened.page.locator(".panel").nth(1).locator(".token").nth(9).click()
    assert int(opened.readout(1)["token"]) == 9
    assert study.frames[opened.index][1] == 9


def test_the_readout_shows_the_values_of_the_data(opened, study):
    opened.page.locator("#scrub").fill("21")
    for panel, row, channel in [(0, 0, 3), (0, 5, 190), (1, 2, 117), (1, 4, 0)]:
        record = study.records[panel]
        opened.hover(panel, row, channel, 6, record.values.shape[2])
        found = opened.readout(panel)
        token = study.frames[21][panel]
        assert (int(found["layer"]), int(found["channel"])) == (row, channel)
        assert int(found["token"]) == token
        assert np.float32(found["value"]) == record.values[row, token, channel]
        text = opened.page.locator(".readout").nth(panel).text_content().replace("−", "-")
        assert f"channel {channel} " in text
        shown = float(opened.page.locator(".readout .value").nth(panel).text_content()
                      .replace("−", "-"))  # fmt: skip
        assert shown == pytest.approx(float(record.values[row, token, channel]), rel=1e-4)


def test_a_click_pins_a_channel_and_the_keys_move_it(opened, study):
    canvas = opened.page.locator(".panel canvas.heat").nth(1)
    opened.hover(1, 3, 50, 6, study.records[1].values.shape[2])
    opened.page.mouse.down()
    opened.page.mouse.up()
    opened.page.mouse.move(2, 2)
    pinned = opened.readout(1)
    assert (pinned["layer"], pinned["channel"]) == ("3", "50")
    assert "layer 3 · channel 50" in opened.page.locator(".follow-title").nth(1).text_content()
    opened.page.keyboard.press("Shift+ArrowRight")
    opened.page.keyboard.press("Shift+ArrowDown")
    moved = opened.readout(1)
    assert (moved["layer"], moved["channel"]) == ("4", "51")
    assert canvas.get_attribute("aria-label").startswith("Heat map of tiny-rwkv4")


def test_the_largest_channel_is_pinned_at_first(opened, study):
    for panel, record in enumerate(study.records):
        found = opened.readout(panel)
        assert int(found["channel"]) == record.peaks[0].channel
        assert int(found["layer"]) == record.peaks[0].row


def test_what_lies_beyond_the_linear_scale_is_counted(opened, study):
    legend = opened.page.locator(".legend-text")
    assert "None of the" in legend.text_content()
    before = opened.pixels()
    opened.page.locator("input[value=linear]").check()
    limit = study_payload(study)["scale"]["linear"]["limit"]
    beyond = [int((np.abs(r.values) > limit).sum()) for r in study.records]
    assert sum(beyond) > 0
    text = legend.text_content()
    assert f"{sum(beyond)} of " in text
    assert all(f" {count}" in text for count in beyond)
    assert opened.pixels() != before


def test_the_numbers_of_the_tables_are_those_of_the_data(opened, study):
    opened.page.locator("summary").click()
    table = opened.page.locator("#tables table").first
    assert table.locator("caption").text_content() == "tiny-llama, without the first token"
    cell = table.locator("tbody tr").nth(2).locator("td").first.text_content()
    expected = study.records[0].statistics["rest"]["rms"][2]
    assert float(cell) == pytest.approx(expected, rel=1e-3)
    first = opened.page.locator("#peaks tbody tr").first.locator("td")
    assert int(first.first.text_content()) == study.records[0].peaks[0].channel


def test_every_control_has_a_name_and_every_picture_a_text(opened):
    nameless = """nodes => nodes.filter(n => !n.getAttribute("aria-label") && !n.textContent.trim())
        .map(n => n.outerHTML.slice(0, 120))"""
    for selector in ("button", "select", "input[type=range]", "[role=img]", "[role=radiogroup]"):
        assert opened.page.locator(selector).evaluate_all(nameless) == [], selector


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_follows_the_theme_while_open(opened):
    ground = "() => getComputedStyle(document.documentElement).backgroundColor"
    was, pixels = opened.page.evaluate(ground), opened.pixels("heat")
    dark = opened.page.evaluate("() => matchMedia('(prefers-color-scheme: dark)').matches")
    opened.page.emulate_media(color_scheme="light" if dark else "dark")
    assert opened.page.evaluate(ground) != was
    drawn = "was => document.querySelector('.panel canvas.heat').toDataURL() !== was"
    opened.page.wait_for_function(drawn, arg=pixels)  # with the next frame


def test_nothing_spills_over_a_narrow_screen(opened):
    for width in (1400, 700, 390):
        opened.page.set_viewport_size({"width": width, "height": 900})
        opened.page.wait_for_timeout(60)
        assert opened.page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_a_nasty_prompt_stays_text(browser, synthetic, tmp_path):
    record = synthetic.fake_record("<i>x</i>", "llama", NASTY, cut=synthetic.pieces)
    context = browser.new_context(offline=True)
    opened = Opened(context, write_study(Study.of([record], NASTY), tmp_path / "report"))
    opened.page.keyboard.press("End")
    assert opened.page.evaluate("() => window.evil") is None
    assert opened.page.locator("blockquote").text_content() == NASTY
    assert opened.page.locator(".card h3").text_content().startswith("<i>x</i>")
    assert opened.complaints == []
    assert len(opened.requests) == len([u for u in opened.requests if "file:" in u or "data:" in u])
    context.close()


def test_wide_deep_broken_and_generated_recordings_are_drawn(browser, synthetic, tmp_path):
    from dataclasses import replace

    wide = synthetic.fake_record(
        "wide", "llama", "one two three", layers=32, channels=1100, made=(" four", " five")
    )
    values = wide.values.copy()
    values[3, 1, 1000], values[4, 1, 2] = np.nan, np.inf
    study = Study.of([replace(wide, values=values)], "one two three")
    context = browser.new_context(offline=True)
    opened = Opened(context, write_study(study, tmp_path / "report"))
    opened.page.locator("#scrub").fill("1")
    opened.hover(0, 3, 1000 // 3, 32, 367)
    assert opened.readout(0)["value"] == "NaN"
    assert opened.readout(0)["channel"] == "1000"
    assert opened.page.locator(".token.made").count() == 2
    assert "2 recorded values are not finite" in opened.page.locator("body").text_content()
    assert opened.complaints == []
    context.close()
