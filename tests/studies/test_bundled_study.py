"""The main job as a user runs it: the bundled pair, the default text, and a real browser."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from laminogram import load
from laminogram.report.study import run_study
from laminogram.studies.study import DEFAULT_PROMPT

MODELS = ("tiny-llama", "tiny-rwkv4")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_study(out=tmp_path_factory.mktemp("bundled") / "report", progress=False)


def test_the_numbers_behind_the_pictures_are_those_of_a_recording(index: Path) -> None:
    manifest = json.loads((index.parent / "manifest.json").read_text(encoding="utf-8"))
    assert [model["name"] for model in manifest["models"]] == list(MODELS)
    for name in MODELS:
        view = load(name)
        gram = view.record(DEFAULT_PROMPT, sites="ffn_out")
        wanted = gram["ffn_out"][:, 0].reshape(-1, gram["ffn_out"].shape[-1])
        with np.load(index.parent / "data" / f"eeg-{name}.npz") as arrays:
            assert np.array_equal(arrays["ffn_out"], wanted)
        table = pq.read_table(index.parent / "data" / f"eeg-{name}.parquet")
        assert np.array_equal(np.stack(table["ffn_out"].to_numpy()), wanted)
    known = {model["name"]: model["gram"]["weights_hash"] for model in manifest["models"]}
    assert known == {name: load(name).facts()["weights_hash"] for name in MODELS}


@pytest.mark.parametrize("prompt", ["A", "é", "The river\n\n– ran"])
def test_short_and_odd_texts_have_a_report(prompt: str, tmp_path: Path) -> None:
    assert run_study(["tiny-rwkv4"], prompt, out=tmp_path / "r", progress=False).stat().st_size > 0


def test_the_report_of_the_bundled_pair_plays_without_a_network(browser, index: Path) -> None:
    context = browser.new_context(offline=True, viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on(
        "console",
        lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(index.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=30_000)
    pixels = "canvas => canvas.toDataURL()"
    canvases = page.locator(".panel canvas.heat")
    assert canvases.count() == len(MODELS)
    before = [canvases.nth(panel).evaluate(pixels) for panel in range(len(MODELS))]
    page.locator("#speed").select_option("16")
    page.locator(".play").click()
    end = time.monotonic() + 20
    while int(page.locator("#place").get_attribute("data-index")) < 4:
        assert time.monotonic() < end, "it does not play"
        page.wait_for_timeout(20)
    page.locator(".play").click()
    after = [canvases.nth(panel).evaluate(pixels) for panel in range(len(MODELS))]
    assert all(a != b for a, b in zip(before, after, strict=True))
    text = page.locator("body").text_content()
    assert all(name in text for name in MODELS)
    assert DEFAULT_PROMPT in text
    assert complaints == []
    assert requests.count(index.as_uri()) == 1
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()
