"""What a model needs, told from its configuration alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import laminogram
from laminogram.bundled import path
from laminogram.cli.main import cli
from laminogram.errors import CheckpointError, ConfigError, FamilyError
from laminogram.probe.count import count

LLAMA_2_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
}


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-rwkv4"])
def test_equals_the_loaded_model(name: str) -> None:
    """The card of the weights themselves, whatever the configuration was read from."""
    card = laminogram.load(name, dtype="bf16").card()
    for source in (name, path(name), path(name) / "config.json"):
        found = count(source).card
        assert found.parameters == card.parameters
        assert found.cache_bytes_per_token == card.cache_bytes_per_token
        assert found.state_bytes == card.state_bytes


def test_a_published_model_by_hand() -> None:
    """Llama-2-7B: 6,738,415,616 parameters (its model card), and what follows from its shape."""
    found = count(LLAMA_2_7B, context=100)
    assert found.card.parameter_total == 6_738_415_616
    assert found.card.bytes_by_precision["bfloat16"] == 2 * 6_738_415_616
    assert found.card.cache_bytes_per_token == 2 * 32 * 4096 * 2  # keys and values, bf16
    products = 6_738_415_616 - 32000 * 4096 - 65 * 4096  # all weights but embedding and norms
    assert found.flops == 2 * products + 32 * 4 * 4096 * 100


def test_the_cache_follows_the_precision() -> None:
    wide, narrow = (count(LLAMA_2_7B, precision=name) for name in ("fp32", "fp16"))
    assert wide.card.cache_bytes_per_token == 2 * narrow.card.cache_bytes_per_token


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match="model_type 'nosuch'"):
        count({"model_type": "nosuch"})
    with pytest.raises(ConfigError, match="softcap"):
        count(LLAMA_2_7B | {"final_logit_softcap": 30.0})
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list"):
        count(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="no file or directory here"):
        count("nosuch")


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA_2_7B))
    out = CliRunner().invoke(cli, ["count", str(file), "--json"])
    assert out.exit_code == 0
    assert json.loads(out.output)["parameter_total"] == 6_738_415_616
    text = CliRunner().invoke(cli, ["count", str(file), "--context", "4096"]).output
    assert "6,738,415,616" in text
    assert "4096 in view" in text


def test_no_more_tokens_are_in_view_than_there_are_positions() -> None:
    source = {
        **{"model_type": "bert", "hidden_size": 8, "intermediate_size": 8, "vocab_size": 9},
        **{"num_attention_heads": 2, "num_hidden_layers": 1, "max_position_embeddings": 64},
    }
    assert count(source).context == 64
    assert count(source, context=16).context == 16
