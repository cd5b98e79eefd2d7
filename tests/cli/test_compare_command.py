"""`laminogram compare`: a page or a text from conditions, or one line that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from laminogram.cli.main import cli

FAST = ["--documents", "2", "--letters", "60", "--sites", "ffn_out"]


def run(*arguments: str):
    return CliRunner().invoke(cli, ["compare", *arguments])


def test_it_writes_a_page_that_opens_without_a_complaint(tmp_path: Path, browser) -> None:
    out = tmp_path / "page"
    result = run("tiny-llama", "tiny-llama@precision=int8", "tiny-rwkv4", *FAST, "--out", str(out))
    assert result.exit_code == 0, result.output
    assert result.output.strip() == str((out / "index.html").resolve())
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert manifest["kind"] == "laminogram compare" and len(manifest["pictures"]) == 5
    complaints: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((out / "index.html").as_uri())
    page.wait_for_selector("html[data-ready]", timeout=30_000)
    assert complaints == [] and page.locator("section.picture").count() == 5
    assert "KL(reference || other)" in page.locator("section.picture").first.text_content()
    page.close()


def test_the_text_says_nothing_is_apart_where_nothing_is(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("tiny-llama", "tiny-llama", *FAST, "--text-only")
    assert result.exit_code == 0, result.output
    titles = [line.partition(" (")[0] for line in result.output.splitlines() if " / " in line]
    assert titles == [
        "Outputs",
        "States: tiny-llama [2]",
        "Distributions of |x|: tiny-llama [2]",
    ]
    line = next(one for one in result.output.splitlines() if "KL(reference" in one)
    assert line.split()[-3:] == ["0", "[0,", "0]"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["tiny-llama"], "two conditions", 2),
        (["tiny-llama", "tiny-llama@size=3"], "no key 'size'", 1),
        (["tiny-llama", "tiny-llama@plan=0-99"], "layer 6", 1),
        (["tiny-llama", "tiny-rwkv4", "--sites", "q", "--documents", "1"], "q", 1),
        (["tiny-llama", "tiny-rwkv4", "--text-only", "--out", "x"], "writes nothing", 2),
    ],
)
def test_what_is_wrong_is_one_line(arguments, said, status) -> None:
    result = run(*arguments)
    assert result.exit_code == status and said in result.output
