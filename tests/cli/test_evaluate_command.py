from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="needs the extra [eval]")

from click.testing import CliRunner
from tests.evaluate.benchmarks import sentence, write_benchmarks

import laminogram
from laminogram import edits
from laminogram.cli.main import cli
from laminogram.evaluate import tasks
from laminogram.evaluate.text import score_text

FULL = "0-5"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["evaluate", "tiny-llama", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_tasks_and_a_text_under_plans_with_their_files(tmp_path: Path) -> None:
    data, text, out = tmp_path / "data", tmp_path / "text.txt", tmp_path / "out"
    data.mkdir()
    write_benchmarks(data)
    text.write_text(sentence(random.Random(2), 400))
    arguments = ["--tasks", "addition,arc_easy,continuation", "--data", str(data), "--limit", "3"]
    arguments += ["--text-file", str(text), "--plan", "0, 2-5", "--out", str(out)]
    printed = run(*arguments)
    for word in ("addition", "arc_easy", "continuation", FULL, "0, 2-5", "acc,none", "perplexity"):
        assert word in printed
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["tasks"]) == 6
    assert [one["plan"] for one in summary["text"]] == [FULL, "0, 2-5"]
    assert summary["text"][0]["kl_from"]["value"] == pytest.approx(0, abs=1e-5)
    assert summary["manifest"]["weights_hash"]
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert all(len(line["values"][f"{line['main_metric']},none"]) == 3 for line in lines)
    before = (out / "results.jsonl").read_bytes()
    run(*arguments)
    assert (out / "results.jsonl").read_bytes() == before


def test_what_parallel_layers_remember_changes_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_GENERATED", 48)  # enough to differ
    (tmp_path / "data").mkdir()
    data = write_benchmarks(tmp_path / "data")
    plan, written = "0, mean(1-4), 5", {}
    for kv in ("exact", "averaged"):
        out = tmp_path / kv
        chosen = ["--tasks", "gsm8k,arc_easy", "--data", str(data), "--limit", "2"]
        run(*chosen, "--plan", plan, "--kv", kv, "--out", str(out))
        lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        assert [line["conditions"]["kv"] for line in lines] == [kv] * 4
        written[kv] = {(line["task"], line["plan"]): line["answers"] for line in lines}
    same = {key: written["averaged"][key] == value for key, value in written["exact"].items()}
    different = [key for key, equal in same.items() if not equal]
    assert different == [("gsm8k", plan)], "likelihoods are read in one forward"


def test_edits_and_a_precision_act_as_from_python(tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(sentence(random.Random(2), 200))
    edit = ["--edit", "zero:ffn_out:layers=2", "--edit", "scale=0.5:attn_out"]
    asked = ["--tasks", "addition", "--limit", "2", "--text-file", str(text), "--out", str(out)]
    run(*asked, *edit, "--precision", "int8")
    made = [edits.zero("ffn_out", layers=2), edits.scale("attn_out", 0.5)]
    loaded = laminogram.load("tiny-llama")
    view = loaded.using(edits=made, precision="int8")
    (expected,) = score_text(view, [text.read_text()], [FULL], reference=loaded)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["text"][0]["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-6)
    kl = summary["text"][0]["kl_from"]["value"]
    assert kl == pytest.approx(expected.kl_from.value, rel=1e-4), "from the model as it was loaded"
    conditions = summary["tasks"][0]["conditions"]
    assert conditions["precision"] == view.facts()["precision"]
    assert len(conditions["edits"]) == 2


def test_without_out_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "sorting" in run("--limit", "2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "arc_easy"], "--data"),
        (["--tasks", "last_word"], "--text-file"),
        (["--plan", "0-9", "--limit", "1"], "layer 6"),
        (["--edit", "zero:ffn_out:layers=9"], "layer 9"),
        (["--edit", "nil:ffn_out"], "no operation 'nil'"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["evaluate", "tiny-llama", *arguments])
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
