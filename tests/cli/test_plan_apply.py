"""`laminogram plan apply` says what it does, what it did, and how to open it."""

from __future__ import annotations

from pathlib import Path

import torch
from click.testing import CliRunner, Result

import laminogram
from laminogram.cli.main import cli


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["plan", "apply", *arguments])


def test_what_it_prints(tmp_path: Path) -> None:
    made = tmp_path / "made"
    result = run("tiny-llama", "0-1, 1.attn, 5", str(made), "--copy")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "tiny-llama as 0-1, 1.attn, 5: 4 layers, 1,895,840 parameters, 3.8 MB",
        "- copies of shared layers (1 2x): 310,080 parameters, 0.6 MB",
        "- place 2 is 1.attn: the whole layer is written, its ffn with an output projection of "
        "zeros, so that it is computed and adds 0",
        f"wrote {made}: config.json, laminogram.json, model.safetensors, tokenizer.json",
        "open it with",
        f"  laminogram study {made}",
        f'  transformers.LlamaForCausalLM.from_pretrained("{made}")',
    ]
    assert laminogram.load(made).config.num_layers == 4


def test_a_pth_file_is_named(tmp_path: Path) -> None:
    from tests.families import reference as ref

    torch.save(ref.blink(4), tmp_path / "four.pth")
    result = run(str(tmp_path / "four.pth"), "2-0", str(tmp_path / "made"))
    assert result.output.splitlines()[-1] == (
        f"  {tmp_path / 'made' / 'four.pth'}, wherever a .pth file is asked for"
    )


def test_refusals_are_one_line(tmp_path: Path) -> None:
    result = run("tiny-llama", "0, mean(1-4), 5", str(tmp_path / "made"))
    assert result.exit_code == 1
    assert result.output.startswith("Error: the plan 0, mean(1-4), 5 has a group")
    assert run("tiny-llama", "0, 2x(1)", str(tmp_path / "made")).exit_code == 1
    assert not list(tmp_path.iterdir())
    result = run("no such model", "0", str(tmp_path))
    assert "exists; nothing is ever written over it" in result.output
