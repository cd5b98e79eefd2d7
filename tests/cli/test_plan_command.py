"""`laminogram plan`: text that can be piped on, and no torch unless a model is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from laminogram.cli.main import cli

PROBE = """
import json, sys
sys.argv = ["laminogram", *json.loads(sys.argv[1])]
from laminogram.cli.main import main
try:
    main()
finally:
    print("LOADED " + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def run(*arguments: str, **options) -> Result:
    return CliRunner().invoke(cli, ["plan", *arguments], **options)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["build", "--help"],
        ["show", "0-3, mean(4-6)", "--layers", "8"],
        ["build", "reverse", "--layers", "8", "--start", "1"],
        ["variants", "--layers", "4"],
    ],
)
def test_without_a_model_no_torch_is_loaded(arguments):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(["plan", *arguments])],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.partition("LOADED ")[2])
    assert not {"torch", "numpy", "transformers", "yaml"} & set(loaded)


def test_show_draws_a_plan_and_says_its_cost_beside_the_full_stack():
    result = run("show", "0,1,2, 12.attn, 2x(mean(5-6))", "--layers", "14")
    assert result.exit_code == 0, result.output
    drawn, _, told = result.output.partition("\n\n")
    assert "[12.attn]" in drawn and "2×" in drawn
    assert told.splitlines() == [
        "0-2, 12.attn, 2x(mean(5-6))",
        "7.5 layer calls, depth 5.5, 8 cache slots",
        "54% of the 14 layer calls of the full stack",
        "not run: 3-4, 7-11, 13",
    ]


def test_plans_are_piped_from_build_to_show():
    built = run("build", "skip", "--layers", "32", "--affected", "3")
    assert built.output == "0-14, 18-31\n"
    shown = run("show", "-", input=built.output)
    assert "0-14, 18-31\n29 layer calls" in shown.output


def test_show_of_a_model_counts_flops_and_writes_a_page(tmp_path: Path):
    page = tmp_path / "plan.html"
    arguments = ("show", "0-2, 2, 4-5", "--model", "tiny-llama", "--html", str(page))
    result = run(*arguments, "--context", "64")
    assert result.exit_code == 0, result.output
    assert "FLOPs a token with 64 in view, cache " in result.output
    assert "not run: 3" in result.output
    assert "<svg" in page.read_text(encoding="utf-8") and str(page) in result.output
    again = run(*arguments)
    assert again.exit_code == 2 and "exists already" in again.output


def test_variants_are_a_table_that_awk_can_read():
    lines = run("variants", "--layers", "6", "--affected", "3").output.splitlines()
    assert lines[0].split() == ["variant", "calls", "depth", "plan"]
    rows = {line.split("  ")[0]: line for line in lines[1:]}
    assert len(rows) == 16
    assert rows["parallel(start=1)"].endswith("0-1, mean(2-4), 5")
    assert len(run("variants", "--layers", "6").output.splitlines()) == 1 + 1 + 6 + 5 + 3 * 15


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["show", "0-9", "--layers", "4"], 1, "layers 0-3"),
        (["show", "0 9"], 1, "character 3"),
        (["show", "0", "--layers", "4", "--model", "m"], 2, "exclude each other"),
        (["show", "0", "--context", "4"], 2, "needs --model"),
        (["variants"], 2, "--layers T or --model"),
        (["variants", "--layers", "6", "--start", "1", "--affected", "3"], 2, "exclude"),
        (["variants", "--layers", "6", "--start", "3"], 1, "0 to 2"),
        (["build", "skip", "--layers", "32", "--affected", "4"], 1, "nearest is 3 or 5"),
        (["build", "skip"], 2, "--layers T or --model"),
        (["build", "swop", "--layers", "4"], 1, "there are full"),
        (["build", "swap", "--layers", "4", "--seed", "1"], 1, "no setting 'seed'"),
        (["from-mergekit", "nowhere.yml"], 1, "cannot read nowhere.yml"),
    ],
)
def test_wrong_use_is_one_line(arguments, status, said):
    result = run(*arguments)
    assert result.exit_code == status
    assert said in " ".join(result.output.split())


def test_build_reaches_every_builder_with_its_settings():
    assert run("build", "repeat_block", "--model", "tiny-llama", "--i", "1", "--j", "3").output == (
        "0, 2x(1-2), 3-5\n"
    )
    assert run("build", "keep_list", "--layers", "9", "--keep", "8, 0-2").output == "8, 0-2\n"


def test_from_mergekit_prints_the_plan(tmp_path: Path):
    file = tmp_path / "merge.yml"
    file.write_text(
        "merge_method: passthrough\nslices:\n"
        "  - sources: [{model: m, layer_range: [0, 4]}]\n"
        "  - sources: [{model: m, layer_range: [2, 6]}]\n"
    )
    assert run("from-mergekit", str(file), "--layers", "6").output == "0-1, 2x(2-3), 4-5\n"
    assert "layers 0-4" in run("from-mergekit", str(file), "--layers", "5").output


def test_generate_and_study_hand_on_the_plan_and_what_parallel_layers_remember(monkeypatch):
    asked: dict[str, dict] = {}

    class View:
        def using(self, **conditions):
            asked["generate"] = conditions
            return self

        def generate(self, prompt, *, stream, **options):
            stream("x")

    def run_study(models, **options):
        asked["study"] = options
        return "index.html"

    monkeypatch.setattr("laminogram.load", lambda name: View(), raising=False)
    monkeypatch.setattr("laminogram.report.study.run_study", run_study)
    conditions = ["--plan", "0, mean(1-2)", "--kv", "averaged"]
    runner = CliRunner()
    assert (
        runner.invoke(cli, ["generate", "tiny-llama", "--prompt", "x", *conditions]).exit_code == 0
    )
    assert runner.invoke(cli, ["study", "tiny-llama", *conditions]).exit_code == 0
    expected = {"plan": "0, mean(1-2)", "kv": "averaged"}
    assert asked == {"generate": expected, "study": expected}
    wrong = runner.invoke(cli, ["generate", "tiny-llama", "--prompt", "x", "--kv", "none"])
    assert wrong.exit_code == 2
