"""The page of pictures in a real browser: drawn, pointed at, clicked, moved by keys, linked, saved.

Numbers that the page shows are held to the arrays that it was made from.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.report import synthetic_pictures as made

import laminogram
from laminogram.report.gallery import write_pictures
from laminogram.report.notebook import fragment
from laminogram.report.picture import picture_of

BOTH_THEMES = pytest.mark.parametrize("theme", ["light", "dark"])
KINDS = ["lens", "attention", "similarity", "massive", "model_map", "next_token"]
TEXT = "The river ran down to the sea, and the sea was still."


class Shown:
    """A page of pictures with what it asked for and complained about."""

    def __init__(self, browser: Any, address: str, **settings: Any) -> None:
        given = {"offline": True, "viewport": {"width": 1366, "height": 900}, **settings}
        self.context = browser.new_context(**given)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "console",
            lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready]", timeout=30_000)

    def close(self) -> None:
        outside = [u for u in self.requests if not u.startswith(("file:", "data:", "blob:"))]
        assert outside == []
        assert self.complaints == []
        self.context.close()

    def section(self, kind: str) -> Any:
        return self.page.locator(f"section[data-kind={kind}]")

    def canvas(self, kind: str, which: int = 0) -> Any:
        found = self.section(kind).locator("canvas[tabindex]").nth(which)
        found.scroll_into_view_if_needed()
        return found

    def data(self, kind: str, selector: str = ".side") -> dict[str, str]:
        return self.section(kind).locator(selector).first.evaluate("node => ({...node.dataset})")

    def pixels(self, kind: str, which: int = 0) -> str:
        return self.canvas(kind, which).evaluate("canvas => canvas.toDataURL()")

    @property
    def selection(self) -> dict[str, str]:
        return dict(
            part.split("=") for part in self.page.url.partition("#")[2].split("&") if "=" in part
        )

    def saved(self, kind: str, what: str) -> bytes:
        with self.page.expect_download() as waiting:
            self.section(kind).locator(".saves button", has_text=what).click()
        return Path(waiting.value.path()).read_bytes()


def is_colourful(image: Any) -> bool:
    """Whether an image has more than 60 colours: something is drawn."""
    return image.convert("RGB").getcolors(60) is None


@pytest.fixture(scope="module")
def results() -> list[Any]:
    return made.everything()


@pytest.fixture(scope="module")
def index(results, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "page"
    return write_pictures(results, folder, {"text": TEXT, "kind": "pictures"})


@pytest.fixture
def shown(browser, index, theme) -> Iterator[Shown]:
    page = Shown(browser, index.as_uri(), color_scheme=theme, accept_downloads=True)
    yield page
    page.close()


@BOTH_THEMES
def test_every_picture_is_drawn_in_colour(shown):
    for kind in KINDS:
        png = shown.section(kind).screenshot()
        assert is_colourful(Image.open(io.BytesIO(png))), kind
        assert shown.section(kind).locator("h2").text_content()
    assert shown.page.locator("#problem").text_content() == ""


def test_the_lens_shows_the_candidates_of_a_cell_and_selects(shown, results):
    lens = results[0]
    table = shown.canvas("lens")
    cell = shown.section("lens").locator(".spacer").evaluate("n => n.clientWidth")
    cell = (cell - 54) / len(lens.tokens)
    scrolled = shown.section("lens").locator(".scroller").evaluate("n => n.scrollLeft")
    row, token = 4, 8
    spot = {"x": 54 + (token + 0.5) * cell - scrolled, "y": 40 + (row + 0.5) * 23}
    table.hover(position=spot)
    found = shown.data("lens")
    assert (found["row"], found["token"]) == (str(row), str(token))
    assert found["first"] == lens.top_texts[row][token][0]
    texts = shown.section("lens").locator(".side .bars b").all_text_contents()
    expected = lens.top_probability[row, token]
    assert [float(t.replace("−", "-")) for t in texts] == pytest.approx(expected, rel=6e-3)
    assert shown.selection == {}
    table.click(position=spot)
    assert shown.selection == {"layer": lens.labels[row], "token": str(token)}
    shown.page.keyboard.press("ArrowDown")
    shown.page.keyboard.press("ArrowLeft")
    assert shown.selection == {"layer": lens.labels[row + 1], "token": str(token - 1)}
    shown.page.mouse.move(2, 2)
    text = shown.section("lens").locator(".lines .chart-values").first.text_content()
    assert str(lens.rank[row + 1, token - 1]) in text
    assert str(lens.chosen[3][0][row + 1, token - 1]) in text
    key = shown.section("lens").locator(".trails .key").text_content()
    assert "what follows" in key
    assert " w3” (id 3) followed" in key


def test_the_lens_colours_by_four_measures(shown):
    seen = {shown.pixels("lens")}
    for mode in ("entropy", "KL", "rank"):
        shown.section("lens").locator(f"input[value={mode}]").check()
        seen.add(shown.pixels("lens"))
    assert len(seen) == 4


def test_attention_reads_weights_and_a_click_keeps_the_pair(shown, results):
    maps = results[1]
    heads = shown.canvas("attention")
    heads.press("ArrowDown")
    heads.press("ArrowDown")
    heads.press("ArrowRight")
    assert shown.selection == {"layer": "2", "head": "1"}
    large = shown.canvas("attention", 1)
    side = min(560, large.evaluate("n => n.clientWidth") - 96 - 4)
    cells = maps.pattern.shape[-1]
    query, key = 9, 4
    spot = {"x": 96 + (key + 0.5) * side / cells, "y": 84 + (query + 0.5) * side / cells}
    large.hover(position=spot)
    found = shown.data("attention")
    assert np.float32(found["weight"]) == maps.pattern[2, 1, query, key]
    large.click(position=spot)
    shown.page.mouse.move(2, 2)
    kept = shown.data("attention")
    assert (kept["query"], kept["key"], kept["head"]) == ("9", "4", "1")
    assert shown.selection["token"] == "9" and shown.selection["key"] == "4"
    large.click(position=spot)
    assert "token" not in shown.selection


def test_similarity_switches_and_reads_pairs(shown, results):
    one = results[2]
    matrix = shown.canvas("similarity")
    side = min(620, matrix.evaluate("n => n.clientWidth") - 64 - 8)
    states = len(one.labels)
    spot = {"x": 64 + 2.5 * side / states, "y": 6.5 * side / states}
    before = shown.pixels("similarity")
    for kind, name in [
        ("cka", "cka"),
        ("per_token", "per_token"),
        ("without_first", "without_first"),
    ]:
        shown.section("similarity").locator(f"input[value={kind}]").check()
        matrix.hover(position=spot)
        value = float(shown.data("similarity")["value"])
        assert value == pytest.approx(getattr(one, name)[6, 2], rel=1e-6)
    assert shown.pixels("similarity") != before
    matrix.click(position=spot)
    assert shown.selection == {"layer": "6", "state": "2"}
    side_text = shown.section("similarity").locator(".side").text_content()
    assert "beginning" in side_text and "1 to 7" in side_text


def test_massive_turns_reads_and_selects(shown, results):
    one = results[3]
    found = shown.data("massive", ".relief .legend-text")
    token, channel = (int(v) for v in one.places[one.surface_row, 0])
    assert (int(found["token"]), int(found["channel"])) == (token, channel)
    assert np.float32(found["value"]) == one.values[one.surface_row, 0]
    before = shown.pixels("massive")
    shown.section("massive").locator("button[aria-label='Turn left']").click()
    turned = shown.pixels("massive")
    assert turned != before
    box = shown.canvas("massive").bounding_box()
    shown.page.mouse.move(box["x"] + 300, box["y"] + 200)
    shown.page.mouse.down()
    shown.page.mouse.move(box["x"] + 380, box["y"] + 220, steps=4)
    shown.page.mouse.up()
    assert shown.pixels("massive") != turned
    lines = shown.canvas("massive", 1)
    lines.click(position={"x": 47, "y": 60})
    assert shown.selection["layer"] == "0"
    lines.press("ArrowRight")
    assert shown.selection["layer"] == "1"


def test_the_map_colours_and_selects_a_layer_everywhere(shown, results):
    one = results[4]
    stack = shown.canvas("model_map")
    stack.click(position={"x": 200, "y": 4 + 3.5 * 30})
    assert shown.selection == {"layer": "2"}
    assert shown.data("model_map")["row"] == "2"
    plain = shown.pixels("model_map")
    shown.section("model_map").locator("select").select_option("turn")
    assert shown.pixels("model_map") != plain
    shown.page.mouse.move(2, 2)
    assert shown.data("attention")["layer"] == "2"
    assert shown.data("lens")["row"] == "3"  # the row of layer 2: the embedding comes first
    total = sum(part.parameters for part in one.parts)
    assert f"{total:,}" in shown.section("model_map").locator("details").text_content()


def test_next_token_reads_losses(shown, results):
    one = results[5]
    piece = shown.section("next_token").locator(".piece").nth(5)
    piece.hover()
    found = shown.data("next_token", ".legend-text")
    assert (int(found["token"]), np.float32(found["loss"])) == (5, one.loss[4])
    assert "loss" in piece.get_attribute("title")
    piece.click()
    assert shown.selection == {"token": "5"}
    shown.section("next_token").locator(".coloured").press("ArrowRight")
    assert shown.selection == {"token": "6"}
    bars = shown.section("next_token").locator(".bars b").all_text_contents()
    assert [float(b) for b in bars] == pytest.approx(one.probability, rel=6e-3)


def test_a_link_brings_the_selection_back_and_escape_clears_it(browser, index):
    page = Shown(browser, index.as_uri() + "#layer=3&token=4&channel=20&evil=<b>&head=99999")
    assert page.data("lens")["token"] == "4"
    assert page.data("model_map")["row"] == "3"
    assert page.page.locator(".selected").text_content().startswith("layer 3 · token 4")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.page.locator("button", has_text="copy link").click()
    assert "layer=3" in page.page.evaluate("() => navigator.clipboard.readText()")
    page.page.keyboard.press("Escape")
    assert page.selection == {}
    page.page.evaluate("() => { location.hash = '#layer=1'; }")
    page.page.wait_for_timeout(50)
    assert page.data("model_map")["row"] == "1"
    page.close()


def test_pictures_are_saved_as_png_and_csv(shown, results):
    for kind in KINDS:
        image = Image.open(io.BytesIO(shown.saved(kind, "PNG")))
        section = shown.section(kind).bounding_box()
        assert image.width > section["width"]
        assert is_colourful(image), kind
        rows = list(csv.reader(io.StringIO(shown.saved(kind, "CSV").decode("utf-8"))))
        assert len(rows) > 1 and len({len(row) for row in rows}) == 1, kind
        if kind == "lens":
            table = [dict(zip(rows[0], row)) for row in rows[1:]]
            entropy = np.array([float(row["entropy_nats"]) for row in table], np.float32)
            assert np.array_equal(entropy, results[0].entropy.ravel())
            assert table[3]["token_text"] == "\n"
        if kind == "similarity":
            column = rows[0].index("per_token")
            value = np.float32(rows[12][column])
            assert value == np.float32(results[2].per_token.ravel()[11])


def test_controls_have_names_and_pictures_texts(shown):
    nameless = """nodes => nodes.filter(n => !n.getAttribute("aria-label") && !n.textContent.trim())
        .map(n => n.outerHTML.slice(0, 120))"""
    for selector in ("button", "select", "[role=img]", "[role=radiogroup]", "ol.bars"):
        assert shown.page.locator(selector).evaluate_all(nameless) == [], selector
    for kind in KINDS:
        assert len(shown.section(kind).locator("details .note").last.text_content()) > 20


@BOTH_THEMES
def test_it_fits_narrow_screens_and_follows_the_theme(shown):
    before = shown.pixels("similarity")
    dark = shown.page.evaluate("() => matchMedia('(prefers-color-scheme: dark)').matches")
    shown.page.emulate_media(color_scheme="light" if dark else "dark")
    assert shown.pixels("similarity") != before
    for width in (1366, 900, 390):
        shown.page.set_viewport_size({"width": width, "height": 800})
        shown.page.wait_for_timeout(60)
        assert shown.page.evaluate("() => document.documentElement.scrollWidth") <= width


TROUBLE: dict[str, Callable[[], list[Any]]] = {
    "one token": lambda: [
        made.fake_lens(rows=3, count=1),
        made.fake_attention(count=1),
        made.fake_massive(count=1),
        made.fake_next(count=1),
    ],
    "one layer": lambda: [
        made.fake_lens(rows=1),
        made.fake_attention(rows=1, heads=1),
        made.fake_similarity(states=2, first=False),
        made.fake_massive(rows=1, channels=1),
        made.fake_map(layers=1),
    ],
    "wide and long": lambda: [
        made.fake_lens(rows=49, count=300, top=2),
        made.fake_attention(rows=32, heads=32, count=1000, pooled=16),
        made.fake_similarity(states=81),
        made.fake_massive(rows=80, count=300, channels=512, pooled=8),
        made.fake_map(layers=80),
        made.fake_next(count=600, top=20),
    ],
    "signed": lambda: [made.fake_attention(signed=True), made.fake_attention(heads=1)],
}


@pytest.mark.parametrize("name", TROUBLE)
def test_small_large_and_signed_results_are_drawn(browser, tmp_path, name):
    page = Shown(browser, write_pictures(TROUBLE[name](), tmp_path / "page").as_uri())
    for canvas in page.page.locator("canvas[tabindex]").all():
        canvas.click()  # is scrolled to and hovered over before, and has the focus after
        page.page.keyboard.press("ArrowRight")
        page.page.keyboard.press("ArrowDown")
    assert page.page.locator("#problem").text_content() == ""
    page.close()


def test_values_that_are_no_numbers_are_drawn(browser, tmp_path):
    def spoiled(x: np.ndarray) -> np.ndarray:
        y = np.array(x, dtype=np.float32)
        y.flat[0], y.flat[-1], y.flat[y.size // 2] = np.nan, np.inf, -np.inf
        return y

    lens, maps, similar, massive, _, following = made.everything()
    broken = [
        replace(lens, entropy=spoiled(lens.entropy), kl=spoiled(lens.kl)),
        replace(maps, pattern=spoiled(maps.pattern)),
        replace(similar, flattened=spoiled(similar.flattened)),
        replace(massive, surface=spoiled(massive.surface), top=spoiled(massive.top)),
        replace(massive, surface=np.full_like(massive.surface, np.nan)),
        replace(following, loss=spoiled(following.loss), entropy=float("nan")),
    ]
    page = Shown(browser, write_pictures(broken, tmp_path / "page").as_uri())
    for mode in ("entropy", "KL"):
        page.section("lens").locator(f"input[value={mode}]").check()
    for canvas in page.page.locator("canvas[tabindex]").all():
        canvas.hover()
    assert page.page.locator("#problem").text_content() == ""
    page.close()


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-rwkv4"])
def test_studies_of_the_bundled_models_are_drawn(browser, tmp_path, name):
    import importlib

    import laminogram

    view = laminogram.load(name)
    studies = [importlib.import_module(f"laminogram.studies.{kind}") for kind in KINDS]
    results = [
        getattr(module, kind)(view, TEXT) for module, kind in zip(studies, KINDS, strict=True)
    ]
    index = write_pictures(results, tmp_path / "page", {"text": TEXT})
    page = Shown(browser, index.as_uri() + "#layer=2&token=3")
    assert page.data("lens")["first"] == results[0].top_texts[3][3][0]
    for kind in KINDS:
        assert page.section(kind).count() == 1
        assert page.section(kind).locator("a").count() >= 2
    page.close()
    manifest = json.loads((index.parent / "manifest.json").read_text("utf-8"))
    assert [one["kind"] for one in manifest["pictures"]] == KINDS
    linked = {file for one in manifest["pictures"] for file in one["files"]}
    assert linked == set(manifest["files"])
    assert all((index.parent / file).is_file() for file in linked)


def test_a_notebook_holds_the_page_in_a_frame_without_a_network(browser, tmp_path):
    outer = tmp_path / "notebook.html"
    outer.write_text(
        f"<!doctype html><meta charset=utf-8><p>cell</p>{fragment(made.fake_lens())}", "utf-8"
    )
    context = browser.new_context(offline=True)
    page = context.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(outer.as_uri())
    inside = page.frame_locator("iframe")
    inside.locator("html[data-ready]").wait_for(timeout=20_000)
    inside.locator("canvas[tabindex]").first.press("ArrowLeft")
    assert "token 10" in inside.locator(".selected").text_content()
    assert inside.locator("button", has_text="copy link").count() == 0
    assert complaints == []
    assert [u for u in asked if not u.startswith(("file:", "data:", "about:"))] == []
    context.close()


def test_nothing_of_a_token_or_a_name_becomes_markup(browser, tmp_path):
    nasty = "</script><img src=x onerror=window.evil=1>"
    lens = replace(made.fake_lens(), model=nasty, tokens=(nasty,) * 12)
    page = Shown(browser, write_pictures([lens], tmp_path / "page", {"text": nasty}).as_uri())
    assert page.page.evaluate("() => window.evil") is None
    assert page.page.locator("blockquote").text_content() == nasty
    page.close()


def test_a_picture_says_in_words_what_it_shows():
    lens = made.fake_lens()
    said = picture_of(lens).alt
    assert lens.top_texts[-1][-1][0] in said
    massive = made.fake_massive()
    assert "channel 32" in picture_of(massive).alt and "-340" in picture_of(massive).alt


def test_a_notebook_shows_every_kind_of_result():
    registered = []

    class Formatter:
        def for_type_by_name(self, module, name, function):
            kind = getattr(importlib.import_module(module), name)
            registered.append((kind, function))

    shell = SimpleNamespace(
        display_formatter=SimpleNamespace(formatters={"text/html": Formatter()})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        laminogram._show_in_notebooks()
    kinds = {kind.__module__.rpartition(".")[2] for kind, _ in registered}
    assert {*KINDS, "gram", "study"} <= kinds
    assert all(function is laminogram._fragment for _, function in registered)


@pytest.mark.parametrize(("tokens", "channels"), [(5, 12), (700, 3000)])
def test_a_gram_in_a_notebook_is_an_eeg_of_bounded_size(browser, tmp_path, tokens, channels):
    import torch

    from laminogram.probe.gram import Gram

    values = torch.randn(1, tokens, channels, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(tokens)[None]
    gram = Gram(
        {("resid_post", step): values for step in range(2)},
        {"resid_post": ("B", "T", "C")},
        {0: (0, None), 1: (1, None)},
        ids,
        torch.ones_like(ids, dtype=torch.bool),
    )
    held = fragment(gram)
    assert len(held) < 1_000_000
    outer = tmp_path / "notebook.html"
    outer.write_text(f"<!doctype html><meta charset=utf-8>{held}", "utf-8")
    page = browser.new_page()
    page.goto(outer.as_uri())
    inner = page.frame_locator("iframe")
    inner.locator("html[data-ready] canvas.heat").wait_for(timeout=30_000)
    assert inner.locator("#problem").text_content() == ""
    page.close()


def test_the_loss_over_position_selects_a_token(shown):
    course = shown.canvas("next_token", 0)
    course.press("End")
    course.press("ArrowLeft")
    assert "token" in shown.selection
