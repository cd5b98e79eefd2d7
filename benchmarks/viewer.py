"""How fast the EEG's page opens and scrubs in headless Chromium, and how large it is.

    python -m benchmarks.viewer [--full] [--layers 32] [--channels 4096] [--tokens 200]

The page is made from made-up recordings with heavy tails, which compress worse than real ones.
"Ready" is from the start of navigation to the first drawn picture, the file read from disk; a frame
is from one animation frame to the next while every frame moves the scrubber by one token, so it
holds the page's drawing and the browser's; frames a second are all frames over all time. Software
rendering, one window of 1400 x 1000.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from laminogram.report.manifest import study_manifest
from laminogram.report.page_data import study_payload
from laminogram.report.study import study_page
from laminogram.studies.study import Study

ROOT = Path(__file__).resolve().parents[1]
SCRUB = """async (count) => {
  const scrub = document.getElementById("scrub"), most = +scrub.max, times = [], work = [];
  const frame = () => new Promise((then) => requestAnimationFrame(then));
  let last = await frame();
  for (let i = 1; i <= count; i++) {
    const begin = performance.now();
    scrub.value = i % (most + 1);
    scrub.dispatchEvent(new Event("input"));
    work.push(performance.now() - begin);
    const now = await frame();
    times.push(now - last);
    last = now;
  }
  return [times, work];
}"""
SELECT = """async (count) => {
  const times = [], frame = () => new Promise((then) => requestAnimationFrame(then));
  let last = await frame();
  for (let i = 1; i <= count; i++) {
    location.hash = "#token=" + i % 16 + "&layer=" + i % 4;
    const now = await frame();
    times.push(now - last);
    last = now;
  }
  return [times, times];
}"""
READY = """new MutationObserver(() => {
  if (document.documentElement.dataset.ready) window.readyAt = window.readyAt || performance.now();
}).observe(document, { attributes: true, subtree: true, childList: true });"""


def make_study(layers: int, channels: int, tokens: int) -> Study:
    from tests.report.synthetic import fake_record

    text = " ".join(f"word{i}" for i in range(tokens))
    record = fake_record("made-up", "llama", text, layers=layers, channels=channels)
    return Study.of([record], text)


def write_page(study: Study, path: Path, columns: int) -> float:
    """Write the page alone and return the seconds that it took."""
    begin = time.perf_counter()
    payload = study_payload(study, columns)
    manifest = study_manifest(study, payload, {}, path.parent / "none")
    path.write_text(study_page(study, payload, {}, manifest), encoding="utf-8")
    return time.perf_counter() - begin


def visit(browser: Any, path: Path, frames: int, linear: bool) -> tuple[float, list[float], Any]:
    context = browser.new_context(offline=True, viewport={"width": 1400, "height": 1000})
    context.add_init_script(READY)
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=120_000)
    ready = page.evaluate("() => window.readyAt")
    page.locator("#eeg").scroll_into_view_if_needed()
    if linear:
        page.locator("input[value=linear]").check()
    times, work = page.evaluate(SCRUB, frames)
    context.close()
    return ready, times, work


def pictures_row(browser: Any, folder: Path, visits: int, frames: int) -> str:
    """The page of all pictures, made up too; a frame draws every picture for another selection."""
    from tests.report.synthetic_pictures import everything

    from laminogram.report.gallery import write_pictures

    begin = time.perf_counter()
    index = write_pictures(everything(), folder / "pictures")
    seconds, found = time.perf_counter() - begin, []
    for _ in range(visits):
        context = browser.new_context(offline=True, viewport={"width": 1400, "height": 1000})
        context.add_init_script(READY)
        page = context.new_page()
        page.goto(index.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=120_000)
        found.append((page.evaluate("() => window.readyAt"), page.evaluate(SELECT, frames)[0]))
        context.close()
    times = sorted(t for _, one in found for t in one)
    cells = ["all pictures", "-", f"{index.stat().st_size / 1e6:.1f}", f"{seconds:.1f}"]
    cells += [f"{statistics.median(ready for ready, _ in found) / 1000:.2f}"]
    cells += [f"{statistics.median(times):.0f}", f"{times[int(0.95 * len(times))]:.0f}", "-"]
    cells += [f"{1000 * len(times) / sum(times):.0f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--layers", type=int, default=32)
    options.add_argument("--channels", type=int, default=4096)
    options.add_argument("--tokens", type=int, default=200)
    options.add_argument("--frames", type=int, default=100, help="frames to scrub")
    options.add_argument("--visits", type=int, default=3)
    options.add_argument("--full", action="store_true", help="also with every channel in the page")
    given = options.parse_args()
    sys.path.insert(0, str(ROOT))  # the tests' made-up recordings and their browser
    from tests.conftest import BROWSER_ARGUMENTS, find_browser

    executable = find_browser()
    if executable is None:
        raise SystemExit("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    study = make_study(given.layers, given.channels, given.tokens)
    kinds = [("pooled to 512", 512)] + ([("full", given.channels)] if given.full else [])
    print("| page | scale | MB | written s | ready s | frame ms | 95 % ms | script ms | frames/s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        (Path(folder) / "none").mkdir()
        browser = playwright.chromium.launch(executable_path=executable, args=BROWSER_ARGUMENTS)
        for name, columns in kinds:
            path = Path(folder) / "page.html"
            seconds = write_page(study, path, columns)
            for linear in (False, True):
                visits = [visit(browser, path, given.frames, linear) for _ in range(given.visits)]
                times = sorted(t for _, one, _ in visits for t in one)
                work = statistics.median(t for _, _, one in visits for t in one)
                ready = statistics.median(r for r, _, _ in visits) / 1000
                middle = statistics.median(times)
                cells = [name, "linear" if linear else "symlog", f"{path.stat().st_size / 1e6:.1f}"]
                cells += [f"{seconds:.1f}", f"{ready:.2f}", f"{middle:.0f}"]
                cells += [f"{times[int(0.95 * len(times))]:.0f}", f"{work:.0f}"]
                cells += [f"{1000 * len(times) / sum(times):.0f}"]
                print("| " + " | ".join(cells) + " |", flush=True)
        print(pictures_row(browser, Path(folder), given.visits, given.frames), flush=True)
        browser.close()


if __name__ == "__main__":
    main()
