"""Writing: atomic, sharded, and read back as the same model by us and by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.checkpoint.test_loading import SOURCE, save
from tests.families.sources import random_stack
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from laminogram.checkpoint.fingerprint import fingerprint, hash_tensors
from laminogram.checkpoint.load import open_model
from laminogram.checkpoint.reading import TensorInfo, read_header
from laminogram.checkpoint.write import export, stream_safetensors, write_safetensors, write_text
from laminogram.errors import CheckpointError

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@given(
    shapes=st.dictionaries(
        st.text(min_size=1, max_size=6).filter(lambda name: name != "__metadata__"),
        st.tuples(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(DTYPES)),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=30, deadline=None)
def test_any_tensors_survive(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, tuple[list[int], torch.dtype]]
) -> None:
    path = tmp_path_factory.mktemp("w") / "x.safetensors"
    tensors = {name: torch.ones(shape).to(dtype) for name, (shape, dtype) in shapes.items()}
    write_safetensors(path, tensors, {"note": "häm"})
    back = load_file(path)
    assert set(back) == set(tensors)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    assert read_header(path)[1] == {"note": "häm"}


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": torch.ones(3)})
    before = path.read_bytes()

    def fail(name: str) -> Tensor:
        if name == "b":
            raise RuntimeError("no more")
        return torch.zeros(3)

    info = TensorInfo((3,), torch.float32)
    with pytest.raises(RuntimeError, match="no more"):
        stream_safetensors(path, {"a": info, "b": info}, fail)
    with pytest.raises(CheckpointError, match=r"a has shape \(2,\).* announced were \(3,\)"):
        stream_safetensors(path, {"a": info}, lambda name: torch.zeros(2))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_written_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "x.json", "grüß")
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == "grüß"
    assert list(tmp_path.iterdir()) == [tmp_path / "x.json"]


def test_views_and_transposes_are_written_in_order(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    write_safetensors(tmp_path / "x.safetensors", {"t": base.t(), "part": base[1:, 2:]})
    back = load_file(tmp_path / "x.safetensors")
    assert torch.equal(back["t"], base.t())
    assert torch.equal(back["part"], base[1:, 2:])


@pytest.mark.parametrize("shard", [10**9, 3000])
def test_export_reads_back(tmp_path: Path, shard: int) -> None:
    stack = random_stack(SOURCE, seed=1)
    extra = tmp_path / "card.json"
    extra.write_text("{}")
    export(stack, stack.config, tmp_path / "m", extra_files=[extra], max_shard_bytes=shard)
    names = {file.name for file in (tmp_path / "m").iterdir()}
    assert {"config.json", "card.json"} < names
    assert ("model.safetensors.index.json" in names) == (shard == 3000)
    opened = open_model(tmp_path / "m")
    assert fingerprint(opened.stack) == fingerprint(stack)
    assert opened.stack.config.layers == stack.config.layers
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize(
    "fields",
    [
        {"num_key_value_heads": 2, "attention_bias": True},
        {"model_type": "gpt_neox", "rotary_pct": 0.5},
        {
            "model_type": "rwkv",
            "intermediate_size": 24,
            "num_attention_heads": None,
            "rescale_every": 0,
        },
    ],
)
def test_transformers_reads_what_we_write(tmp_path: Path, fields: dict[str, Any]) -> None:
    source = {key: value for key, value in (SOURCE | fields).items() if value is not None}
    stack = random_stack(source, seed=2)
    export(stack, stack.config, tmp_path / "m")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    x = torch.arange(1, 9)[None]
    with torch.no_grad():
        want, got = theirs(x).logits, stack(x)
    assert float((got - want).abs().max() / want.abs().max()) < 1e-4


def test_an_export_never_overwrites_and_never_lies(tmp_path: Path) -> None:
    stack = random_stack(SOURCE, seed=3)
    other = random_stack(SOURCE | {"rms_norm_eps": 0.5}, seed=3)
    (tmp_path / "there").mkdir()
    with pytest.raises(CheckpointError, match="exists; an export never overwrites"):
        export(stack, stack.config, tmp_path / "there")
    from dataclasses import replace

    lying = replace(other.config, source=stack.config.source)
    with pytest.raises(CheckpointError, match="no longer describes it"):
        export(stack, lying, tmp_path / "m")
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


def test_fingerprints_follow_the_weights(tmp_path: Path) -> None:
    stack = save(tmp_path / "m")
    first = fingerprint(stack)
    assert len(first) == 32
    assert fingerprint(open_model(tmp_path / "m").stack) == first
    with torch.no_grad():
        stack.final_norm.weight[0] += 1
    assert fingerprint(stack) != first
    tensors = {"a": torch.ones(2), "b": torch.zeros(3)}
    assert hash_tensors(tensors) == hash_tensors(dict(reversed(tensors.items())))
    assert hash_tensors(tensors) != hash_tensors({"a": torch.ones(2), "c": torch.zeros(3)})
    assert hash_tensors({"a": torch.zeros(4)}) != hash_tensors({"a": torch.zeros(2, 2)})
    assert hash_tensors({"a": torch.zeros(4)}) != hash_tensors({"a": torch.zeros(4).half()})


def test_a_fingerprint_sees_most_of_a_matrix_written_to_uncounted() -> None:
    module = nn.Linear(64, 64)
    before = fingerprint(module)
    module.weight.data[:, 1:] *= 2
    assert fingerprint(module) != before


def test_a_fingerprint_sees_a_step_of_a_fused_optimiser() -> None:
    """Such a step counts no write, so what was kept would be of the weights before it."""
    parameter = nn.Parameter(torch.ones(40, 30))
    module = nn.ParameterList([parameter])
    before, version = fingerprint(module), parameter._version
    optimiser = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    assert parameter._version == version
    assert fingerprint(module) == hash_tensors(dict(module.named_parameters())) != before
