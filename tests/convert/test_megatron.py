"""Conversions to Megatron: what is planned is what is written, told on the way, proved before."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.convert import models
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from laminogram.convert import proof
from laminogram.convert.megatron import prepare_megatron, to_megatron, write_prepared
from laminogram.convert.prepare import opened, prepare
from laminogram.errors import CheckpointError, ConfigError

CUTS: list[dict[str, Any]] = [
    {"tp": 2, "pp": 3},
    {"pp": 2, "vpp": 2, "stages": [1, 0, 1, 1], "norms": "local"},
    {"tp": 2, "layout": "torch_dist"},
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make("qwen2", tmp_path_factory.mktemp("qwen2"))


def held(root: Path) -> dict[tuple[str, str], int]:
    """Bytes of every tensor by file and name, as torch's own readers find them."""
    folder = root / "release"
    if (folder / ".metadata").is_file():
        metadata = FileSystemReader(folder).read_metadata().state_dict_metadata
        tensors = {k: x for k, x in metadata.items() if isinstance(x, TensorStorageMetadata)}
        return {
            ("release/__0_0.distcp", name): tensor.size.numel() * tensor.properties.dtype.itemsize
            for name, tensor in tensors.items()
        }
    found = {}
    for file in folder.rglob("*.pt"):
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(file, weights_only=True)
        for chunk in (name for name in content if name.startswith("model")):
            for name, tensor in content[chunk].items():
                if isinstance(tensor, Tensor):
                    found[str(file.relative_to(root)), f"{chunk}.{name}"] = tensor.nbytes
    return found


@pytest.mark.parametrize("cut", CUTS)
def test_what_is_planned_is_what_is_written(
    source: Path, tmp_path: Path, cut: dict[str, Any]
) -> None:
    to_megatron(source, tmp_path / "other", pp=3, verify=False)
    for number, start in enumerate((source, tmp_path / "other")):
        planned = prepare_megatron(start, **cut)
        there = sorted(tmp_path.iterdir())
        rows, memory = planned.rows, planned.memory
        assert sorted(tmp_path.iterdir()) == there
        told: list[tuple[int, int]] = []
        destination = tmp_path / str(number)
        write_prepared(planned, destination, progress=lambda *now, told=told: told.append(now))
        want = held(destination)
        assert planned.nbytes == sum(want.values()) == sum(row.nbytes for row in rows)
        listed = {(str(file), row.key.split("[")[0]) for row in rows for file in row.files}
        assert listed == set(want)
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert told[-1] == (planned.nbytes, planned.nbytes)
        assert memory >= max(info.nbytes for info in planned.model.infos.values())
        origins = {origin for row in rows for origin in row.origins}
        assert origins == set(planned.prepared.described.checkpoint.tensors)


def test_a_result_is_proved_before_it_appears(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination, compare = tmp_path / "ranks", proof.compare
    appeared = []

    def broken(*models: Any, **how: Any) -> Any:
        appeared.append(destination.exists())
        found = compare(*models, **how)
        return type(found)(**{**found.to_dict(), "largest": 1e9})

    monkeypatch.setattr(proof, "compare", broken)
    with pytest.raises(CheckpointError, match="was not kept"):
        to_megatron(source, destination, tp=2)
    assert appeared == [False] and not list(tmp_path.iterdir())


def test_a_stop_within_the_proof_is_gone_on_from(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*models: Any, **how: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(proof, "compare", stopped)
        with pytest.raises(KeyboardInterrupt):
            to_megatron(source, tmp_path / "ranks", tp=2)
    assert [path.name for path in tmp_path.iterdir()] == [".ranks.partial"]
    told: list[int] = []
    _, found = to_megatron(
        source, tmp_path / "ranks", tp=2, progress=lambda done, total: told.append(done)
    )
    assert found is not None and found.largest == 0 and not told
    assert [path.name for path in tmp_path.iterdir()] == ["ranks"]
    assert not (tmp_path / "ranks" / "journal.jsonl").exists()


def test_a_cut_that_is_impossible_is_told_by_the_plan(source: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be shared"):
        prepare_megatron(source, tp=3)
    with pytest.raises(ConfigError, match="evenly"):
        prepare_megatron(source, pp=2)


@pytest.mark.parametrize("layout", ["legacy", "torch_dist"])
def test_another_precision(source: Path, tmp_path: Path, layout: str) -> None:
    cut = {"tp": 2, "layout": layout}
    low, found = to_megatron(source, tmp_path / "low", dtype=torch.bfloat16, **cut)
    assert found is not None and 0 < found.largest < 0.1 * found.scale
    manifest = json.loads((low / "laminogram.json").read_text())
    assert manifest["grade"] == "same numbers, rounded to bfloat16"
    arguments = opened(low).checkpoint.extras["arguments"]
    assert arguments["bf16"] and arguments["params_dtype"] is torch.bfloat16
    wide, found = to_megatron(low, tmp_path / "wide", dtype=torch.float32, **cut)
    assert found is not None and found.largest == 0
    assert {x.dtype for x in opened(wide).checkpoint.tensors.values()} == {torch.float32}
    assert prepare_megatron(low, dtype=torch.float32).prepared.verdict == "same numbers, in float32"
    assert prepare_megatron(low, dtype=torch.bfloat16).prepared.verdict == "same bytes"


def test_a_grade_holds_up_to_the_trained_length(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stretched"
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters", None)
    config["rope_scaling"] = {"rope_type": "dynamic", "factor": 2.0}
    (folder / "config.json").write_text(json.dumps(config))
    ranks, found = to_megatron(folder, tmp_path / "ranks", tp=2)
    assert found is not None and found.largest == 0
    manifest = json.loads((ranks / "laminogram.json").read_text())
    assert manifest["grade"] == "same bytes" and manifest["losses"] == []
    assert manifest["limit"] == config["max_position_embeddings"]
    assert "beyond the trained" in manifest["changes"][0]["what"]
    assert to_megatron(ranks, tmp_path / "again", tp=1)[1] is not None


def test_the_files_that_are_read_are_named(source: Path, tmp_path: Path) -> None:
    to_megatron(source, tmp_path / "ranks", tp=2, pp=3, verify=False)
    planned = prepare(tmp_path / "ranks", "llama")
    files = {name: planned.files(one.origins) for name, one in planned.tensors.items()}
    ranks = [f"release/mp_rank_{rank:02d}_001/model_optim_rng.pt" for rank in (0, 1)]
    assert files["model.layers.1.mlp.down_proj.weight"] == tuple(ranks)
    assert files["model.layers.1.input_layernorm.weight"] == tuple(ranks[:1])
    assert not prepare(source, "llama").files(["model.norm.weight"])
    to_megatron(tmp_path / "ranks", tmp_path / "dist", layout="torch_dist", tp=2, verify=False)
    planned = prepare(tmp_path / "dist", "llama")
    file = ("release/__0_0.distcp",)
    assert {planned.files(x.origins) for x in planned.tensors.values() if x.origins} == {file}
