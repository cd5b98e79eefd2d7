"""Draw every picture from the bundled models and photograph it into docs/gallery/.

    python docs/gallery.py

Needs a Chromium on the PATH and Playwright (the extra `dev`). The images are palette PNGs.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "docs" / "gallery"
PROMPT = "The river ran down to the sea, and the sea was still. The old man looked at the"
COLOURS = 32
WIDTH = 1000
SHOTS = (
    # file, page, section, theme, address, height of the picture at most
    ("study", "study", "", "light", "#token=9", 780),
    ("eeg", "eeg", "#eeg", "dark", "#token=9", 960),
    ("lens", "pictures", "section[data-kind=lens]", "light", "#layer=5&token=9", 760),
    ("attention", "pictures", "section[data-kind=attention]", "dark", "#layer=3&head=1", 720),
    ("similarity", "pictures", "section[data-kind=similarity]", "light", "", 700),
    ("massive", "pictures", "section[data-kind=massive]", "dark", "", 700),
    ("map", "pictures", "section[data-kind=model_map]", "light", "#layer=4", 620),
    ("next", "pictures", "section[data-kind=next_token]", "light", "#token=9", 700),
)


def write_pages(folder: Path) -> dict[str, Path]:
    """Run the bundled models and write the three pages; return them by name."""
    import importlib

    import laminogram
    from laminogram.cli.pictures import STUDIES
    from laminogram.report.eeg import run_eeg
    from laminogram.report.gallery import write_pictures
    from laminogram.report.study import run_study

    view = laminogram.load("small-llama")
    studies = [importlib.import_module(f"laminogram.studies.{name}") for name in STUDIES.values()]
    results = [
        getattr(study, name)(view, PROMPT)
        for study, name in zip(studies, STUDIES.values(), strict=True)
    ]
    return {
        "study": run_study(["tiny-llama", "tiny-rwkv4"], PROMPT, out=folder / "study"),
        "eeg": run_eeg(["small-llama"], PROMPT, out=folder / "eeg.html", new_tokens=8),
        "pictures": write_pictures(results, folder / "pictures", {"text": PROMPT}),
    }


def photograph(browser: Any, page_file: Path, shot: tuple[Any, ...]) -> Path:
    """Open the page, save its section (the window where none is named) as a palette PNG."""
    name, _, section, theme, address, height = shot
    page = browser.new_page(viewport={"width": WIDTH, "height": height}, color_scheme=theme)
    page.goto(page_file.as_uri() + address)
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    if section:
        page.locator(section).evaluate("node => node.scrollIntoView()")
        box = page.locator(section).bounding_box()
        page.set_viewport_size({"width": WIDTH, "height": int(box["height"]) + 40})
        raw = page.locator(section).screenshot()
    else:
        raw = page.screenshot()
    page.close()
    with Image.open(io.BytesIO(raw)) as picture:
        cut = picture.convert("RGB").crop((0, 0, picture.width, min(picture.height, height)))
    target = GALLERY / f"{name}.png"
    small = cut.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    small.save(target, format="PNG", optimize=True)
    return target


def main() -> None:
    """Make the gallery; say so where there is no browser."""
    sys.path.insert(0, str(ROOT))  # the browser that the tests drive
    from tests.conftest import BROWSER_ARGUMENTS, BROWSERS, find_browser

    executable = find_browser()
    if executable is None:
        raise SystemExit(f"no browser is installed; the gallery needs one of {', '.join(BROWSERS)}")
    from playwright.sync_api import sync_playwright

    GALLERY.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        pages = write_pages(Path(folder))
        browser = playwright.chromium.launch(executable_path=executable, args=BROWSER_ARGUMENTS)
        for shot in SHOTS:
            target = photograph(browser, pages[shot[1]], shot)
            print(f"{target.relative_to(ROOT)} {target.stat().st_size:,} bytes")
        browser.close()


if __name__ == "__main__":
    main()
