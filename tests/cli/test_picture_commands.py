"""The commands that draw one picture: a page or a text, or one line that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from laminogram.cli.main import cli
from laminogram.cli.pictures import STUDIES, parse_layers

PROMPT = ["--prompt", "The river ran down to the sea."]


def run(*arguments: str):
    return CliRunner().invoke(cli, [*arguments])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", STUDIES)
def test_each_command_writes_a_page_with_its_numbers(kind, tmp_path):
    out = tmp_path / "page"
    result = run(kind, "tiny-llama", *PROMPT, "--out", str(out))
    assert result.exit_code == 0, result.output
    assert result.output.strip() == str((out / "index.html").resolve())
    assert files(tmp_path) == ["page"]
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert manifest["kind"] == f"laminogram {kind}"
    assert manifest["text"] == PROMPT[1]
    named = manifest["pictures"][0]["files"]
    assert named and sorted(named) == sorted(manifest["files"])
    assert {Path(name).suffix for name in named} == {".parquet", ".npz"}


@pytest.mark.parametrize("kind", STUDIES)
def test_text_only_prints_and_writes_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(kind, "tiny-rwkv4", *PROMPT, "--text-only")
    assert result.exit_code == 0, result.output
    assert "tiny-rwkv4" in result.output
    assert files(tmp_path) == []


def test_all_pictures_on_one_page_and_no_page_over_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("map", "tiny-rwkv4", *PROMPT, "--with", "all").exit_code == 0
    manifest = json.loads(Path("laminogram-map/manifest.json").read_text("utf-8"))
    assert sorted(one["kind"] for one in manifest["pictures"]) == sorted(STUDIES.values())
    assert run("map", "tiny-rwkv4", *PROMPT).exit_code == 0
    assert files(tmp_path) == ["laminogram-map", "laminogram-map-2"]


def test_an_existing_folder_is_replaced_only_by_force_and_only_a_report(tmp_path):
    out = tmp_path / "page"
    arguments = ["next", "tiny-llama", *PROMPT, "--out", str(out)]
    assert run(*arguments).exit_code == 0
    (out / "mine.txt").write_text("x")
    refused = run(*arguments)
    assert refused.exit_code == 1 and "exists already" in refused.output
    assert (out / "mine.txt").exists()
    assert run(*arguments, "--force").exit_code == 0
    assert files(out) == ["data", "index.html", "manifest.json"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    kept = run("next", "tiny-llama", *PROMPT, "--out", str(other), "--force")
    assert kept.exit_code == 1 and "no report" in kept.output
    assert files(other) == ["thesis.txt"] and files(tmp_path) == ["other", "page"]


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["lens", "tiny-llama", "--prompt", "  "], "empty", 1),
        (["lens", "tiny-llama", *PROMPT, "--follow", "two words"], "not one token", 1),
        (["lens", "tiny-llama", *PROMPT, "--follow", "id:99999"], "outside the vocabulary", 1),
        (["attention", "tiny-llama", *PROMPT, "--layers", "0-9"], "layer", 1),
        (["attention", "tiny-llama", *PROMPT, "--layers", "x"], "no layer", 2),
        (["massive", "tiny-llama", *PROMPT, "--site", "nowhere"], "does not exist", 1),
        (["map", "tiny-llama", "--prompt", "a" * 20_000], "shorten", 1),
        (["next", "tiny-llama", *PROMPT, "--temperature", "0"], "temperature", 2),
        (["next", "tiny-llama", *PROMPT, "--plan", "0-99"], "99", 1),
        (["next", "no-such-model", *PROMPT], "no-such-model", 1),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    arguments, said, status, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert said in result.output
    assert "Traceback" not in result.output
    assert files(tmp_path) == []


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    text = tmp_path / "latin.txt"
    text.write_bytes("café".encode("latin-1"))
    result = run("next", "tiny-llama", "--text-file", str(text), "--out", str(tmp_path / "page"))
    assert result.exit_code == 1
    assert "latin.txt is not UTF-8" in result.output
    assert files(tmp_path) == ["latin.txt"]


def test_layers_are_read():
    assert parse_layers(None) is None
    assert parse_layers("0-3, 7") == [0, 1, 2, 3, 7]


def test_similarity_pools_several_files(tmp_path):
    files_given = []
    for name in ("one", "two", "three"):
        path = tmp_path / f"{name}.txt"
        path.write_text(f"This is text {name} of the river and the sea.", "utf-8")
        files_given.append(str(path))
    first, *more = files_given
    also = [part for name in more for part in ("--also", name)]
    out = tmp_path / "page"
    done = run("similarity", "tiny-llama", "--text-file", first, *also, "--out", str(out))
    assert done.exit_code == 0, done.output
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert manifest["pictures"][0]["study"]["asked"]["texts"] == 3
