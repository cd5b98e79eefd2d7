"""`laminogram paint`: a page and tables, results kept as they come, mistakes told in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from laminogram.cli.main import cli

QUICK = ("--variants", "skip_one,iterations", "--iterations", "2")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["paint", *arguments])


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "texts.jsonl"
    said = ("The river ran down to the sea.", "Nobody knew where the captain had gone.")
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in said), encoding="utf-8")
    return str(path)


def test_a_page_with_its_numbers_and_what_is_known_beside_it(text: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("tiny-llama", "--text-file", text, "--out", str(out), *QUICK)
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    assert first.stdout.strip() == str((out / "report" / "index.html").resolve())
    assert "different plans" in first.stderr and "about " in first.stderr
    assert sorted(one.name for one in out.iterdir()) == ["report", "work"]
    manifest = json.loads((out / "report" / "manifest.json").read_text("utf-8"))
    assert manifest["kind"] == "laminogram paint"
    assert [one["kind"] for one in manifest["pictures"]] == ["painters"] * 3 + ["similarity"]
    assert all(one["files"] for one in manifest["pictures"])
    known = (out / "work" / "results.jsonl").read_bytes()
    again = run(*arguments)
    assert again.exit_code == 0 and "there already: " in again.stderr
    assert (out / "work" / "results.jsonl").read_bytes() == known


def test_text_only_prints_tables_and_writes_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run("tiny-rwkv4", "--text-file", text, "--text-only", *QUICK)
    assert found.exit_code == 0, found.output
    assert "skip_one" in found.stdout and "iterations" in found.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--variants", "sideways"], "no variant is named 'sideways'"),
        (["--tasks", "arc_easy"], "arc_easy needs its documents"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    if "--tasks" in arguments:
        pytest.importorskip("lm_eval", reason="needs the extra [eval]")
    found = run("tiny-llama", *arguments, "--out", str(tmp_path / "out"))
    assert found.exit_code == 1
    assert said in found.stderr and found.stderr.count("\n") == 1


def test_something_else_at_its_place_stays(text: str, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.txt").write_text("years of work")
    found = run("tiny-llama", "--text-file", text, "--out", str(tmp_path), *QUICK)
    assert found.exit_code == 1 and "no report" in found.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["report"]
