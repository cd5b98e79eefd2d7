"""What every test shares: quiet threads, and a headless browser where one is installed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

# Before torch loads, for OpenMP reads these once: two test processes whose threads spin while they
# wait are hundreds of times slower on two cores than one that sleeps.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests never reach for the network, whatever a library would like to look up.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# No test measures time: a busy machine is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def pytest_runtest_setup() -> None:
    """Every test draws the same numbers, whatever ran before it in its process."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def find_browser() -> str | None:
    """Return the path of an installed Chromium or Chrome; None where there is none."""
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


def browser_is_required() -> bool:
    """Whether a missing browser is a failure rather than a reason to skip."""
    return os.environ.get("LAMINOGRAM_REQUIRE_BROWSER", "") not in ("", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a browser; skip it test by test, so that each is named, where none is."""
    missing = find_browser() is None and not browser_is_required()
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
            if missing:
                reason = f"needs a browser, and none of {', '.join(BROWSERS)} is installed"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Keep torch to one thread in each test process, without loading it for its own sake."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium, one for each test process; every test opens its own page or context."""
    executable = find_browser()
    if executable is None:
        pytest.fail(
            f"LAMINOGRAM_REQUIRE_BROWSER is set, and none of {', '.join(BROWSERS)} is installed",
            pytrace=False,
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=BROWSER_ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def theme() -> str:
    """What the browser asks of a page's colours. Tests of what is drawn see both, by
    `parametrize("theme", ["light", "dark"])`; where a click or a key leads is the same in both."""
    return "light"


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """Made-up recordings with the habits of real ones, for reports and studies without a model."""
    from tests.report import synthetic

    return synthetic
