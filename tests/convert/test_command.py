"""The command `laminogram convert`, and conversions to and from Megatron through it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from tests.convert import models

from laminogram.cli.main import cli


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make("qwen2", tmp_path_factory.mktemp("qwen2"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["convert", *map(str, arguments)])


def test_a_conversion_says_what_it_did(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path / "result", "--to", "llama")
    assert done.exit_code == 0, done.output
    assert "change 1: biases of zero for the attention's output (same bytes)" in done.output
    assert "grade: same bytes\n" in done.output
    assert "largest logit difference 0 " in done.output
    assert "opened by transformers" in done.output
    assert json.loads((tmp_path / "result" / "laminogram.json").read_text())["proof"]["kl"] == 0


def test_a_dry_run_lists_every_tensor_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path / "result", "--to", "phi3", "--lossy", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "lost: biases of up to" in done.output
    row = next(line for line in done.output.splitlines() if ".1.self_attn.qkv_proj" in line)
    joined = [f"model.layers.1.self_attn.{x}_proj.weight" for x in "qkv"]
    assert ", ".join(joined) in row and "join" in row
    down = next(line for line in done.output.splitlines() if ".1.mlp.down_proj" in line)
    assert down.split()[-2:] == ["copy", "6,144"]
    assert "nothing was written" in done.output and "GB of disk" in done.output
    assert not list(tmp_path.iterdir())


def test_a_refusal_is_one_line(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path / "result", "--to", "mistral")
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert "biases on q, k and v, which mistral cannot express" in done.output
    done = run(source)
    assert done.exit_code == 2 and "SOURCE and DST are needed" in done.output


def test_the_table_of_pairs() -> None:
    done = run("--pairs")
    rows = [line.split() for line in done.output.splitlines()]
    assert ["qwen2", "llama", "same", "bytes"] in [row[:4] for row in rows]
    assert ["qwen3", "llama", "refused"] in [row[:3] for row in rows]


@pytest.mark.parametrize("cut", [("--tp", 2, "--pp", 3), ("--layout", "torch_dist")])
def test_to_megatron_and_back(source: Path, tmp_path: Path, cut: tuple[object, ...]) -> None:
    done = run(source, tmp_path / "ranks", "--to", "megatron", *cut)
    assert done.exit_code == 0, done.output
    assert "largest logit difference 0 " in done.output
    manifest = json.loads((tmp_path / "ranks" / "laminogram.json").read_text())
    assert manifest["proof"]["agreement"] == 1 and manifest["to"]["layout"] == "megatron"
    back = run(tmp_path / "ranks", tmp_path / "back", "--to", "qwen2")
    assert back.exit_code == 0, back.output
    want = load_file(source / "model.safetensors")
    got = load_file(tmp_path / "back" / "model.safetensors")
    assert set(got) == set(want)
    assert all(torch.equal(got[name], x) for name, x in want.items())
    anew = ("--tp", 1, "--pp", 1, "--iteration", 7, "--vocab-divisible-by", 16, "--lossy")
    again = run(tmp_path / "ranks", tmp_path / "cut", "--to", "megatron", *anew)
    assert again.exit_code == 0 and "grade: same bytes\n" in again.output, again.output
    assert (tmp_path / "cut" / "iter_0000007").is_dir()


def test_a_dry_run_to_megatron_names_ranks_and_stages(source: Path, tmp_path: Path) -> None:
    cut = ("--to", "megatron", "--tp", 2, "--pp", 3)
    done = run(source, tmp_path / "ranks", *cut, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "nothing was written" in done.output and "GB of disk" in done.output
    assert not list(tmp_path.iterdir())
    rows = [line for line in done.output.splitlines() if "linear_fc1.weight" in line]
    assert len(rows) == 3
    files = [f"release/mp_rank_{rank:02d}_001/model_optim_rng.pt" for rank in range(2)]
    origins = [f"model.layers.1.mlp.{x}_proj.weight" for x in ("gate", "up")]
    assert rows[1].startswith("model.decoder.layers.0.") and " .. ".join(files) in rows[1]
    assert ", ".join(origins) in rows[1] and "rows of both halves cut in 2" in rows[1]
    assert "read from" not in done.output
    run(source, tmp_path / "ranks", *cut, "--no-verify")
    for to in ("llama", "megatron"):
        back = run(tmp_path / "ranks", "--to", to, "--dry-run")
        assert back.exit_code == 0 and "read from" in back.output, back.output
        assert any(" .. ".join(files) in line for line in back.output.splitlines())


def test_what_is_for_megatron_alone(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path / "x", "--to", "llama", "--tp", 2)
    assert done.exit_code == 2 and "--tp is for --to megatron" in done.output
    for option, value in (("--rescaled", 6), ("--shard-size", 1)):
        done = run(source, tmp_path / "x", "--to", "megatron", option, value)
        assert done.exit_code == 2 and f"{option} is for families" in done.output
    done = run(source, tmp_path / "x", "--to", "llama", "--vocab-size", 7)
    assert done.exit_code == 1 and "is no Megatron checkpoint" in done.output
    done = run(source, tmp_path / "x", "--to", "megatron", "--stages", "1,b")
    assert done.exit_code == 2 and "whole numbers" in done.output
    assert not list(tmp_path.iterdir())
