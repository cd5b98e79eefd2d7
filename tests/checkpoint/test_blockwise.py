"""fp8 weights with a scale for each block: read as stored plainly, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.families.sources import random_stack
from torch import Tensor

from laminogram.checkpoint.apply import apply_plan
from laminogram.checkpoint.blockwise import multiplied_out
from laminogram.checkpoint.load import describe, open_model
from laminogram.checkpoint.write import export
from laminogram.errors import CheckpointError, ConfigError

BLOCK = [8, 16]
QUANTISED = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": BLOCK}
SOURCE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 13,
    "hidden_size": 20,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 6,
}
Q = "model.layers.0.self_attn.q_proj.weight"


def entry(weight: Tensor, scale: Tensor, row: int, column: int, block: tuple[int, int]) -> Tensor:
    """One weight, by the definition, in fp32."""
    return weight[row, column].float() * scale[row // block[0], column // block[1]].float()


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    block=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_every_entry_by_its_definition(
    rows: int, columns: int, block: tuple[int, int], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(rows * 100 + columns)
    weight = (torch.randn(rows, columns, generator=generator) * 50).to(torch.float8_e4m3fn)
    shape = (-(-rows // block[0]), -(-columns // block[1]))
    scale = torch.rand(shape, generator=generator)
    found = multiplied_out(weight, scale, block, dtype)
    assert found.dtype == dtype
    for row in range(rows):
        for column in range(columns):
            want = entry(weight, scale, row, column, block).to(dtype)
            assert torch.equal(found[row, column], want)


def quantise(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every projection of the layers in fp8, its scales beside it."""
    out = dict(tensors)
    for name, x in tensors.items():
        if "_proj.weight" not in name:
            continue
        places = [torch.arange(size) // side for size, side in zip(x.shape, BLOCK, strict=True)]
        shape = [int(place[-1]) + 1 for place in places]
        scale = torch.zeros(shape)
        for row in range(shape[0]):
            for column in range(shape[1]):
                block = x[places[0] == row][:, places[1] == column]
                scale[row, column] = block.abs().max() / 448
        spread = scale[places[0]][:, places[1]]
        out[name] = (x.float() / spread).to(torch.float8_e4m3fn)
        out[f"{name}_scale_inv"] = scale
    return out


def save(
    folder: Path,
    change: Callable[[dict[str, Tensor]], None] = lambda tensors: None,
    **config: Any,
) -> dict[str, Tensor]:
    """A quantised model in a folder; its tensors."""
    stack = random_stack(SOURCE, seed=0, dtype=torch.bfloat16)
    export(stack, stack.config, folder)
    tensors = quantise(load_file(folder / "model.safetensors"))
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    source = json.loads((folder / "config.json").read_text())
    source["quantization_config"] = QUANTISED | config
    (folder / "config.json").write_text(json.dumps(source))
    return tensors


@pytest.mark.parametrize("asked", [None, torch.float32])
def test_a_model(tmp_path: Path, asked: torch.dtype | None) -> None:
    tensors = save(tmp_path / "m")
    opened = open_model(tmp_path / "m", dtype=asked)
    weight = opened.stack.layer(0).attn.q.weight
    assert weight.dtype == (asked or torch.bfloat16)
    want = multiplied_out(tensors[Q], tensors[f"{Q}_scale_inv"], (8, 16), weight.dtype)
    assert torch.equal(weight, want)
    original = random_stack(SOURCE, seed=0).layer(0).attn.q.weight  # type: ignore[union-attr]
    assert 0 < (weight - original).abs().max() < 2**-4 * original.abs().max() * 1.1
    table = opened.stack.embed.tokens.weight
    assert torch.equal(table, tensors["model.embed_tokens.weight"].to(table.dtype))


def test_what_is_written_again_is_plain(tmp_path: Path) -> None:
    save(tmp_path / "m")
    stack = open_model(tmp_path / "m").stack
    export(stack, stack.config, tmp_path / "plain")
    again = open_model(tmp_path / "plain").stack
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(again(ids), stack(ids))
    assert "quantization_config" not in json.loads((tmp_path / "plain/config.json").read_text())


def test_a_plan_is_written_plainly(tmp_path: Path) -> None:
    tensors = save(tmp_path / "m")
    apply_plan(tmp_path / "m", "1, 0", tmp_path / "swapped")
    want = multiplied_out(tensors[Q], tensors[f"{Q}_scale_inv"], (8, 16), torch.bfloat16)
    found = load_file(tmp_path / "swapped/model.safetensors")
    assert torch.equal(found[Q.replace("layers.0", "layers.1")], want)
    assert not [name for name in found if name.endswith("_scale_inv")]


def _missing(tensors: dict[str, Tensor]) -> None:
    del tensors[f"{Q}_scale_inv"]


def _left_over(tensors: dict[str, Tensor]) -> None:
    tensors["model.norm.weight_scale_inv"] = torch.ones(1, 1)


def _misshaped(tensors: dict[str, Tensor]) -> None:
    tensors[f"{Q}_scale_inv"] = torch.ones(2, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_missing, rf"{Q} is stored as F8_E4M3 and its scales, {Q}_scale_inv, are missing"),
        (_left_over, "model.norm.weight_scale_inv scales no tensor"),
        (_misshaped, rf"{Q}_scale_inv has shape \(2, 2\); expected \(3, 2\)"),
    ],
)
def test_scales_that_do_not_fit(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], None], said: str
) -> None:
    save(tmp_path / "m", change)
    with pytest.raises(CheckpointError, match=said):
        describe(tmp_path / "m")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"quant_method": "gptq"}, "quant_method 'gptq' is not read; expected 'fp8'"),
        ({"quant_method": None}, "quant_method None"),
        ({"fmt": "e5m2"}, "fmt 'e5m2'"),
        ({"activation_scheme": "static"}, "activation_scheme 'static'"),
        ({"weight_block_size": None}, "weight_block_size is None"),
        ({"weight_block_size": [128]}, r"weight_block_size is \[128\]"),
        ({"weight_block_size": [0, 128]}, r"weight_block_size is \[0, 128\]"),
    ],
)
def test_other_methods_are_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    save(tmp_path / "m", **fields)
    with pytest.raises(ConfigError, match=said):
        describe(tmp_path / "m")


def test_fp8_that_the_configuration_does_not_speak_of(tmp_path: Path) -> None:
    save(tmp_path / "m")
    source = json.loads((tmp_path / "m/config.json").read_text())
    del source["quantization_config"]
    (tmp_path / "m/config.json").write_text(json.dumps(source))
    with pytest.raises(CheckpointError, match="float8_e4m3fn"):
        open_model(tmp_path / "m")
