"""Loading: one error for all that is wrong, dtypes, mapped memory, devices."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoint.test_reading import mapped_file
from tests.families.reference import blink
from tests.families.sources import random_stack
from torch import Tensor

from laminogram import families
from laminogram.checkpoint.load import describe, open_model, placed
from laminogram.checkpoint.write import export
from laminogram.errors import CheckpointError, ConfigError, FamilyError
from laminogram.stack.stack import Stack

SOURCE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 13,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
Q = "model.layers.{}.self_attn.q_proj.weight"


def save(folder: Path, dtype: torch.dtype = torch.float32, **fields: Any) -> Stack:
    stack = random_stack(SOURCE | fields, seed=0, dtype=dtype)
    export(stack, stack.config, folder)
    return stack


def change(folder: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    edit(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("asked", [None, torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(tmp_path: Path, stored: torch.dtype, asked: torch.dtype | None) -> None:
    original = save(tmp_path / "m", stored)
    stack = open_model(tmp_path / "m", dtype=asked).stack
    for (name, mine), (_, want) in zip(
        stack.named_parameters(), original.named_parameters(), strict=True
    ):
        assert mine.dtype == (asked or stored), name
        assert torch.equal(mine, want.to(asked or stored)), name
        assert mine.requires_grad


def test_a_mixed_checkpoint_takes_the_common_dtype(tmp_path: Path) -> None:
    save(tmp_path / "m", torch.float16)
    norm = "model.norm.weight"
    change(tmp_path / "m", lambda tensors: tensors.update({norm: tensors[norm].float()}))
    stack = open_model(tmp_path / "m").stack
    assert {p.dtype for p in stack.parameters()} == {torch.float16}


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    save(tmp_path / "m")

    def edit(tensors: dict[str, Tensor]) -> None:
        del tensors["model.norm.weight"], tensors[Q.format(0)]
        tensors[Q.format(1)] = torch.zeros(16, 8)
        tensors["model.layers.2.self_attn.q_proj.weight"] = torch.zeros(2)
        tensors.update({f"extra.{n}": torch.zeros(1) for n in range(6)})

    change(tmp_path / "m", edit)
    with pytest.raises(CheckpointError) as error:
        open_model(tmp_path / "m")
    told = str(error.value)
    assert f"missing 2: {Q.format(0)}, model.norm.weight" in told
    assert f"misshaped 1: {Q.format(1)} (expected (16, 16), found (16, 8))" in told
    assert "unexpected 7: " in told
    assert "and 3 more" in told
    assert "family llama, layout hf" in told


def test_a_fused_tensor_of_another_shape_is_named_as_stored(tmp_path: Path) -> None:
    save(tmp_path / "m", model_type="gpt_neox", rotary_pct=0.5)
    name = "gpt_neox.layers.0.attention.query_key_value.weight"
    change(tmp_path / "m", lambda tensors: tensors.update({name: torch.zeros(36, 16)}))
    with pytest.raises(CheckpointError) as error:
        open_model(tmp_path / "m")
    assert f"misshaped 1: {name} (expected (48, 16), found (36, 16))" in str(error.value)


@pytest.mark.parametrize("fields", [{"num_hidden_layers": 3}, {"num_hidden_layers": 1}])
def test_a_configuration_that_contradicts_its_tensors(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    save(tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(CheckpointError, match=r"missing 9|unexpected 9"):
        open_model(tmp_path / "m")


def test_tied_heads(tmp_path: Path) -> None:
    save(tmp_path / "m", tie_word_embeddings=True)
    assert open_model(tmp_path / "m").stack.head.weight is None
    table = "model.embed_tokens.weight"
    change(
        tmp_path / "m", lambda tensors: tensors.update({"lm_head.weight": tensors[table].clone()})
    )
    assert open_model(tmp_path / "m").stack.head.weight is None
    change(tmp_path / "m", lambda tensors: tensors["lm_head.weight"].add_(1.0))
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from model.embed_tokens"):
        open_model(tmp_path / "m")


def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "m")
    change(
        tmp_path / "m", lambda tensors: tensors.update({Q.format(0): tensors[Q.format(0)].char()})
    )
    with pytest.raises(CheckpointError, match=r"q_proj.weight is stored as int8; expected one of"):
        open_model(tmp_path / "m")


def test_buffers_of_old_checkpoints_are_ignored(tmp_path: Path) -> None:
    save(tmp_path / "m")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change(tmp_path / "m", lambda tensors: tensors.update({name: torch.ones(2)}))
    open_model(tmp_path / "m")


def test_old_norm_names_of_bert(tmp_path: Path) -> None:
    original = save(tmp_path / "m", model_type="bert")

    def edit(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            new = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            tensors[new.replace("LayerNorm.bias", "LayerNorm.beta")] = tensors.pop(name)
        tensors["cls.predictions.decoder.weight"] = tensors[
            "bert.embeddings.word_embeddings.weight"
        ].clone()
        tensors["cls.seq_relationship.weight"] = torch.ones(2, 16)
        tensors["bert.embeddings.position_ids"] = torch.arange(512)[None]

    change(tmp_path / "m", edit)
    stack = open_model(tmp_path / "m").stack
    for mine, want in zip(stack.parameters(), original.parameters(), strict=True):
        assert torch.equal(mine, want)


def test_pth_without_a_configuration(tmp_path: Path) -> None:
    torch.save(blink(4), tmp_path / "world.pth")
    opened = open_model(tmp_path / "world.pth")
    assert (opened.name, opened.tokenizer, opened.described.family.name) == ("world", None, "rwkv4")
    torch.save({"x": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(FamilyError, match="no family can be told"):
        open_model(tmp_path / "other.pth")


def test_settings_are_checked_like_fields(tmp_path: Path) -> None:
    torch.save(blink(7), tmp_path / "x.pth")
    changed = describe(tmp_path / "x.pth", {"group_norm_eps": 1e-5}).config
    assert changed.layers[0].attn.group_norm_eps == 1e-5
    with pytest.raises(ConfigError, match="does not know group_norm_epsilon"):
        open_model(tmp_path / "x.pth", group_norm_epsilon=1e-5)
    with pytest.raises(ConfigError, match="layout 'blink' has no option rescaled"):
        open_model(tmp_path / "x.pth", rescaled=6)


def test_broken_configurations_are_named(tmp_path: Path) -> None:
    save(tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    for text, words in (("{", "no readable configuration"), ("[]", "holds a list")):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=words):
            open_model(tmp_path / "m")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's memory map")
def test_a_matching_model_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    """49 MB stay where they are mapped; converted, they take their own size and one tensor more."""
    fields = {"vocab_size": 4000, "hidden_size": 512, "intermediate_size": 2048}
    original = save(tmp_path / "m", **fields)
    size = sum(p.numel() * 4 for p in original.parameters())
    largest = max(p.numel() * 4 for p in original.parameters())
    del original
    assert size > 45e6

    def private() -> int:
        """Bytes that only this process has; pages of a mapped file can be dropped at any time."""
        gc.collect()
        maps = psutil.Process().memory_maps(grouped=False)
        return sum(int(part.anonymous) for part in maps)

    before = private()
    stack = open_model(tmp_path / "m").stack
    for p in stack.parameters():
        assert mapped_file(p.data_ptr()) == str(tmp_path / "m" / "model.safetensors")
        p.sum()
    assert private() - before < size / 4
    del stack
    before = private()
    half = open_model(tmp_path / "m", dtype=torch.bfloat16).stack
    assert private() - before < size / 2 + largest + 4e6
    assert half.dtype == torch.bfloat16


def test_layers_spread_over_devices() -> None:
    config = families.find(SOURCE).config(SOURCE | {"num_hidden_layers": 5})
    where = placed(config, ["cuda:0", "cuda:1"])
    assert callable(where)
    assert where("embed.tokens.weight") == "cuda:0"
    assert [where(f"layers.{i}.attn.q.weight") for i in range(5)] == ["cuda:0"] * 3 + ["cuda:1"] * 2
    assert where("final_norm.weight") == where("head.weight") == "cuda:1"
    assert placed(config, "cpu") == placed(config, ["cpu"]) == "cpu"
    with pytest.raises(ConfigError, match="empty list"):
        placed(config, [])


def test_each_tensor_goes_where_the_function_says(tmp_path: Path) -> None:
    save(tmp_path / "m")
    stack = open_model(
        tmp_path / "m", device=lambda name: "meta" if name.startswith("layers.1.") else "cpu"
    ).stack
    places = {name: p.device.type for name, p in stack.named_parameters()}
    assert {name for name, place in places.items() if place == "meta"} == {
        name for name in places if name.startswith("layers.1.")
    }


@pytest.mark.parametrize("device", ["zebra", ["cpu", "zebra"], "cuda:99"])
def test_a_device_that_is_not_there_is_named(tmp_path: Path, device: str | list[str]) -> None:
    save(tmp_path / "m")
    with pytest.raises(ConfigError, match=r"device '(zebra|cuda:99)' is .*; there are cpu"):
        open_model(tmp_path / "m", device=device)


def test_a_tied_head_is_placed_with_the_table_that_it_shares() -> None:
    from dataclasses import replace

    from tests.stacks import config_of

    from laminogram.checkpoint.load import placed
    from laminogram.stack.config import HeadConfig

    config = config_of("llama")
    tied = replace(config, head=HeadConfig(tied=True))
    for one, expected in ((config, "cuda:1"), (tied, "cuda:0")):
        where = placed(one, ["cuda:0", "cuda:1"])
        assert callable(where)
        assert where("final_norm.weight") == expected
        assert where("layers.2.attn.q.weight") == "cuda:1"
