"""`laminogram eeg`: what is typed reaches the pictures, and what cannot be drawn is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from laminogram.cli.main import cli

TEXT = "The river ran down to the sea."


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["eeg", *map(str, arguments)])


def arrays(out: Path, model: str) -> dict[str, np.ndarray]:
    with np.load(out.with_name(f"{out.stem}.data") / f"eeg-{model}.npz") as found:
        return dict(found)


def test_a_page_of_the_text_and_what_the_model_generates(tmp_path):
    out = tmp_path / "sea.html"
    done = run("tiny-llama", "--prompt", TEXT, "--new-tokens", 3, "--out", out)
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(out)
    manifest = json.loads((tmp_path / "sea.data" / "manifest.json").read_text())
    (model,) = manifest["models"]
    assert model["tokens"] == model["prompt_tokens"] + 3
    assert manifest["text"] == TEXT
    assert manifest["site"] == "ffn_out"
    page = out.read_text(encoding="utf-8")
    assert 'href="sea.data/eeg-tiny-llama.npz"' in page


def test_precisions_read_the_same_tokens_side_by_side(tmp_path):
    import laminogram

    out = tmp_path / "both.png"
    done = run("tiny-llama", "--precision", "fp32,bf16", "--prompt", TEXT, "--new-tokens", 4,
               "--out", out, "--site", "resid_post", "--frame", 2, "--theme", "dark")  # fmt: skip
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "both.data" / "manifest.json").read_text())
    assert [m["name"] for m in manifest["models"]] == ["tiny-llama fp32", "tiny-llama bf16"]
    assert [m["gram"]["precision"] for m in manifest["models"]] == ["float32", "bfloat16"]
    assert (
        manifest["models"][0]["gram"]["tokens_hash"] == manifest["models"][1]["gram"]["tokens_hash"]
    )
    assert manifest["models"][1]["gram"]["tokens_of"] == "tiny-llama fp32"
    assert {m["prompt_tokens"] for m in manifest["models"]} == {manifest["models"][0]["tokens"] - 4}
    one, other = arrays(out, "tiny-llama-fp32"), arrays(out, "tiny-llama-bf16")
    assert one["resid_post"].shape == other["resid_post"].shape
    assert 0 < np.abs(one["resid_post"] - other["resid_post"]).max() < 20
    view = laminogram.load("tiny-llama", dtype="fp32")
    gram = view.record(TEXT, sites=("resid_post",))
    mine = one["resid_post"].reshape(6, -1, 160)[:, : gram.tokens.shape[1]]
    assert np.allclose(mine, gram["resid_post"][:, 0], atol=1e-3)
    with Image.open(out) as picture:
        assert picture.getpixel((1, 1)) == (16, 20, 23)


def test_heads_are_laid_side_by_side_and_the_page_says_so(tmp_path):
    import laminogram

    out = tmp_path / "q.html"
    done = run("tiny-llama", "--prompt", TEXT, "--site", "q", "--new-tokens", 0, "--out", out)
    assert done.exit_code == 0, done.output
    gram = laminogram.load("tiny-llama").record(TEXT, sites=("q",))
    layers, _, tokens, heads, size = gram["q"].shape
    table = arrays(out, "tiny-llama")["q"].reshape(layers, tokens, -1)
    assert np.array_equal(table[3, 2, 2 * size + 5], gram["q"][3, 0, 2, 2, 5])
    assert f"{heads} H × {size} D" in out.read_text(encoding="utf-8")


def test_a_site_of_the_whole_model_is_one_row(tmp_path):
    out = tmp_path / "x.html"
    done = run("tiny-llama", "--prompt", TEXT, "--site", "final", "--new-tokens", 0, "--out", out)
    assert done.exit_code == 0, done.output
    assert set(arrays(out, "tiny-llama")["layer"]) == {-1}
    assert '"labels":["final"]' in out.read_text(encoding="utf-8")


def test_without_a_number_the_model_goes_on_as_far_as_its_context(tmp_path):
    out = tmp_path / "x.gif"
    done = run("tiny-llama", "--prompt", "a", "--out", out, "--plan", "0-2, 5", "--fps", 10)
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "x.data" / "manifest.json").read_text())
    assert manifest["models"][0]["tokens"] == manifest["models"][0]["prompt_tokens"] + 24
    assert manifest["models"][0]["plan"] == "0-2, 5"
    with Image.open(out) as gif:
        assert gif.n_frames == manifest["models"][0]["tokens"]
        assert gif.info["duration"] == 100


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--prompt", " "], 1, "the text is empty"),
        (["--prompt", "word " * 3000, "--new-tokens", "0"], 1, "was made for 512"),
        (["--prompt", "a", "--site", "nope"], 1, "site 'nope' does not exist; there are embed"),
        (["--prompt", "a", "--site", "pattern"], 1, "pattern has the axes B H T S"),
        (["--prompt", "a", "--text-file", __file__], 2, "exclude each other"),
        (["--prompt", "a", "--precision", "fp8"], 2, "'fp8' is none of fp32"),
        (["--prompt", "a", "--precision", "fp32", "--dtype", "bf16"], 2, "exclude each other"),
        (["--prompt", "a", "--fps", "0"], 2, "fps"),
        (["--prompt", "a", "--new-tokens", "-1"], 2, "new-tokens"),
    ],
)
def test_what_cannot_be_drawn_is_said_and_leaves_nothing(tmp_path, arguments, code, said):
    done = run("tiny-llama", *arguments, "--out", tmp_path / "x.html")
    assert done.exit_code == code, done.output
    assert said in done.output
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error")]) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_frame_beyond_the_text_is_named(tmp_path):
    done = run("tiny-llama", "--prompt", "a", "--new-tokens", 1, "--token", 50,
               "--out", tmp_path / "x.png")  # fmt: skip
    assert done.exit_code == 1
    assert "there is no token 50 to draw; there are 0 to" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_is_not_utf_8_is_named_with_its_byte(tmp_path):
    text = tmp_path / "t.txt"
    text.write_bytes(b"caf\xe9")
    done = run("tiny-llama", "--text-file", text, "--out", tmp_path / "x.html")
    assert done.exit_code == 1
    assert "not UTF-8: byte 3" in done.output


def test_what_exists_is_kept_without_force_and_before_the_model_runs(tmp_path):
    out = tmp_path / "x.html"
    out.write_text("mine")
    done = run("owner/none", "--prompt", "a", "--out", out)
    assert done.exit_code == 1
    assert "exists already" in done.output
    assert out.read_text() == "mine"
    done = run("tiny-llama", "--prompt", "a", "--new-tokens", 0, "--out", out, "--force")
    assert done.exit_code == 0, done.output
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_default_name_is_new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("laminogram-eeg.html", "laminogram-eeg-2.html"):
        done = run("tiny-rwkv4", "--prompt", "a", "--new-tokens", 0)
        assert done.output.strip() == str(tmp_path / name)
        assert (tmp_path / name).is_file()


def test_text_only_prints_bands_and_channels_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("tiny-llama", "--prompt", TEXT, "--new-tokens", 0, "--text-only")
    assert done.exit_code == 0, done.output
    assert "95%" in done.output and "Largest channels:" in done.output
    assert list(tmp_path.iterdir()) == []
    both = run("tiny-llama", "--prompt", "a", "--text-only", "--out", tmp_path / "x.html")
    assert both.exit_code == 2 and "leave out --out" in both.output
