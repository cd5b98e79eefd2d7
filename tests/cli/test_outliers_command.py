"""`laminogram outliers`: cost first, parts kept, a report; or one line that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from laminogram.cli.main import cli

FAST = [
    "--documents",
    "2",
    "--letters",
    "60",
    "--edits",
    "none",
    "--no-bos",
    "--definitions",
    "dispersion,six_sigma_channels",
]


def run(*arguments: str):
    return CliRunner().invoke(cli, ["outliers", *arguments])


def test_it_says_its_cost_keeps_its_parts_and_writes_a_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("tiny-llama", *FAST, "--out", str(out))
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str((out / "report" / "index.html").resolve())
    assert result.stderr.startswith("tiny-llama: 2 documents")
    assert len(list((out / "work").glob("*.json"))) == 2
    manifest = json.loads((out / "report" / "manifest.json").read_text("utf-8"))
    assert manifest["kind"] == "laminogram outliers"


def test_what_is_wrong_is_one_line_before_a_model_runs(tmp_path: Path) -> None:
    wrong = run("tiny-llama", "--edits", "erase", "--out", str(tmp_path / "x"))
    assert wrong.exit_code == 1 and "'erase'" in wrong.stderr
    unknown = run("tiny-llama", "--precisions", "int99", "--out", str(tmp_path / "x"))
    assert unknown.exit_code == 1 and "int99" in unknown.stderr
    assert not (tmp_path / "x").exists()
