"""Writing: round trips to the bit, cutting anew, stops and refusals that leave nothing behind."""

from __future__ import annotations

import errno
import json
import pickle
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.checkpoint.megatron.cases import TINY, parameters, reread
from tests.checkpoint.megatron.test_reading import same, written
from tests.families.sources import random_stack
from torch import Tensor

from laminogram.checkpoint.megatron import is_megatron, read_megatron, reshard, write_megatron
from laminogram.checkpoint.reading import TensorInfo
from laminogram.errors import CheckpointError, ConfigError, FamilyError

FAMILIES: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": True},
    {"attention_bias": True, "mlp_bias": True},
    {"model_type": "qwen2"},
    {"model_type": "qwen3", "head_dim": 8},
    {"model_type": "mistral", "sliding_window": 8},
    {"model_type": "internlm2", "bias": False},
]


@st.composite
def cuts(draw: st.DrawFn) -> dict[str, Any]:
    """A way of cutting three layers, in any form."""
    layout = draw(st.sampled_from(["legacy", "torch_dist"]))
    pp, vpp, stages = draw(
        st.sampled_from([(1, 1, None), (3, 1, None), (2, 1, (2, 1)), (2, 2, (1, 0, 1, 1))])
    )
    return {
        "tp": draw(st.sampled_from([1, 2, 4])),
        "pp": pp,
        "vpp": vpp,
        "stages": stages,
        "layout": layout,
        "norms": draw(st.sampled_from(["te", "local"])),
        "vocab_padding": draw(st.sampled_from(["zero", "last"])),
        "vocab_divisible_by": draw(st.sampled_from([1, 4, 128])),
        "common": draw(st.sampled_from(["file", "inside"])),
        "iteration": draw(st.sampled_from([None, 5])),
    }


@given(fields=st.sampled_from(FAMILIES), first=cuts(), second=cuts(), bf16=st.booleans())
@settings(max_examples=8, deadline=None)
def test_any_way_of_cutting_keeps_every_bit(
    tmp_path_factory: pytest.TempPathFactory,
    fields: dict[str, Any],
    first: dict[str, Any],
    second: dict[str, Any],
    bf16: bool,
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    dtype = torch.bfloat16 if bf16 else torch.float32
    stack = random_stack(TINY | fields, seed=2, dtype=dtype)
    write_megatron(parameters(stack), stack.config, folder / "a", **first)
    reshard(folder / "a", folder / "b", **second)
    write_megatron(parameters(stack), stack.config, folder / "c", **second)
    for name in "ab":
        back = read_megatron(folder / name)
        assert back.config == stack.config
        assert same(reread(folder / name), stack)
        assert {info.dtype for info in back.checkpoint.tensors.values()} == {dtype}
    ours, theirs = (sorted(p for p in (folder / n).rglob("*") if p.is_file()) for n in "bc")
    assert [p.relative_to(folder / "b") for p in ours] == [
        p.relative_to(folder / "c") for p in theirs
    ]


def test_every_rank_has_what_torch_reads(tmp_path: Path) -> None:
    """The files by torch's own restricted reader: names, shapes and the rank's share."""
    stack = written(tmp_path / "m", {"tie_word_embeddings": True}, tp=2, pp=3, iteration=9)
    own = parameters(stack)
    from argparse import Namespace

    for rank in range(2):
        for stage in range(3):
            file = tmp_path / f"m/iter_0000009/mp_rank_{rank:02d}_{stage:03d}/model_optim_rng.pt"
            with torch.serialization.safe_globals([Namespace]):
                content = torch.load(file, weights_only=True)
            assert content["args"].padded_vocab_size == 256
            assert content["args"].pipeline_model_parallel_size == 3
            assert (content["checkpoint_version"], content["iteration"]) == (3.0, 9)
            model = content["model"]
            up = own[f"layers.{stage}.ffn.up.weight"].chunk(2)[rank]
            assert torch.equal(model["decoder.layers.0.mlp.linear_fc1.weight"][12:], up)
            assert "decoder.layers.1.mlp.linear_fc1.weight" not in model
            assert ("embedding.word_embeddings.weight" in model) == (stage == 0)
            assert ("output_layer.weight" in model) == (stage == 2)
            if stage == 2 and rank == 0:
                assert torch.equal(model["output_layer.weight"][:13], own["embed.tokens.weight"])
                assert not torch.count_nonzero(model["output_layer.weight"][13:])


def test_torchs_own_reader_of_distributed_files(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    stack = written(tmp_path / "m", layout="torch_dist", tp=2, common="inside")
    own = parameters(stack)
    folder = tmp_path / "m" / "release"
    name = "decoder.layers.mlp.linear_fc2.weight"
    state: dict[str, Any] = {name: torch.empty(3, 32, 24)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, checkpoint_id=str(folder), no_dist=True)
    for layer in range(3):
        assert torch.equal(state[name][layer], own[f"layers.{layer}.ffn.down.weight"])
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    objects = {key for key in metadata.state_dict_metadata if "shard_" in key}
    assert "common_state/shard_0_1" in objects
    assert "decoder.layers.mlp.linear_fc1._extra_state/shard_2_3" in objects
    assert json.loads((folder / "metadata.json").read_text()) == {
        "sharded_backend": "torch_dist",
        "sharded_backend_version": 1,
    }


def test_uneven_stages_are_said_in_the_arguments(tmp_path: Path) -> None:
    written(tmp_path / "ends", pp=2, stages=(1, 2))
    found = read_megatron(tmp_path / "ends").checkpoint.extras
    assert found["arguments"]["num_layers_in_first_pipeline_stage"] == 1
    assert found["stages"] == (1, 2)
    written(tmp_path / "any", pp=3, stages=(0, 2, 1))
    found = read_megatron(tmp_path / "any").checkpoint.extras
    assert found["arguments"]["pipeline_model_parallel_layout"] == "E|tt|tL"


def test_cutting_anew_keeps_the_runs_other_arguments(tmp_path: Path) -> None:
    written(tmp_path / "a", tp=2)
    for rank in range(2):
        file = tmp_path / "a" / "release" / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
        content = torch.load(file, weights_only=False)
        content["args"].lr = 0.5
        torch.save(content, file)
    reshard(tmp_path / "a", tmp_path / "b", layout="torch_dist")
    arguments = read_megatron(tmp_path / "b").checkpoint.extras["arguments"]
    assert (arguments["lr"], arguments["tensor_model_parallel_size"]) == (0.5, 1)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"model_type": "gpt_neox", "num_key_value_heads": None}, "blocks are parallel-norm"),
        ({"model_type": "gemma", "head_dim": 8}, "its norms are no plain RMSNorm"),
        ({"hidden_act": "gelu"}, "not gated by SiLU"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "scaled by 'dynamic'"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1},
            "layers differ",
        ),
    ],
)
def test_refusals_leave_nothing(tmp_path: Path, source: dict[str, Any], reason: str) -> None:
    stack = random_stack(TINY | source, seed=0)
    with pytest.raises(FamilyError, match=reason):
        write_megatron(parameters(stack), stack.config, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_scaling_beyond_the_trained_length_is_lost_on_request(tmp_path: Path) -> None:
    fields = {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    stack = random_stack(TINY | fields, seed=0)
    write_megatron(parameters(stack), stack.config, tmp_path / "m", lossy=True)
    assert same(reread(tmp_path / "m"), stack)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"tp": 8}, "4 heads with 2 groups of keys cannot be shared by 8"),
        ({"pp": 2}, "3 layers cannot be shared evenly by 2 stages"),
        ({"pp": 2, "stages": (2, 2)}, "do not hold 3 layers"),
        ({"layout": "zarr"}, "layout is 'zarr'"),
        ({"norms": "apex"}, "norms is 'apex'"),
        ({"tp": 0}, "tp is 0; expected a positive whole number"),
    ],
)
def test_cuts_that_do_not_fit_leave_nothing(
    tmp_path: Path, choices: dict[str, Any], words: str
) -> None:
    stack = random_stack(TINY, seed=0)
    with pytest.raises(ConfigError, match=words):
        write_megatron(parameters(stack), stack.config, tmp_path / "m", **choices)
    assert not list(tmp_path.iterdir())


def test_a_destination_is_never_overwritten(tmp_path: Path) -> None:
    stack = written(tmp_path / "m")
    with pytest.raises(CheckpointError, match="exists; nothing is ever overwritten"):
        write_megatron(parameters(stack), stack.config, tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"do not exist: .*tokenizer\.json"):
        write_megatron(
            parameters(stack),
            stack.config,
            tmp_path / "n",
            extra_files=[tmp_path / "tokenizer.json"],
        )
    assert [item.name for item in tmp_path.iterdir()] == ["m"]


class Counting(dict[str, Tensor]):
    """Tensors that are counted when asked for, and refused after so many."""

    def __init__(self, tensors: dict[str, Tensor], after: int) -> None:
        super().__init__(tensors)
        self.asked: list[str] = []
        self.after = after

    def __getitem__(self, name: str) -> Tensor:
        self.asked.append(name)
        if len(self.asked) > self.after:
            raise RuntimeError("stopped")
        return super().__getitem__(name)


@pytest.mark.parametrize("layout", ["legacy", "torch_dist"])
@pytest.mark.parametrize("after", [0, 9, 20])
def test_what_was_stopped_goes_on(
    tmp_path: Path, layout: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laminogram.checkpoint.megatron.filling._NOTED", 1)
    stack = random_stack(TINY, seed=1)
    infos = {n: TensorInfo(tuple(t.shape), t.dtype) for n, t in parameters(stack).items()}
    choices: dict[str, Any] = {"tp": 2, "layout": layout, "infos": infos, "workers": 1}
    sampled = 6  # of our tensors are looked at to tell this work from another's
    after += sampled if after else 0
    stopped = Counting(parameters(stack), after)
    with pytest.raises(RuntimeError, match="stopped"):
        write_megatron(stopped, stack.config, tmp_path / "m", resume="it", **choices)
    assert not (tmp_path / "m").exists()
    assert not list(tmp_path.rglob("latest_checkpointed_iteration.txt"))
    rest = Counting(parameters(stack), 1000)
    write_megatron(rest, stack.config, tmp_path / "m", resume="it", **choices)
    assert (len(rest.asked) < len(infos) + sampled) == (after > 0)
    assert same(reread(tmp_path / "m"), stack)
    assert [item.name for item in tmp_path.iterdir()] == ["m"]
    whole = tmp_path / "whole"
    write_megatron(parameters(stack), stack.config, whole, tp=2, layout=layout)
    for file in whole.rglob("*"):
        if file.is_file() and file.suffix in (".pt", ".distcp"):
            assert file.read_bytes() == (tmp_path / "m" / file.relative_to(whole)).read_bytes()


@pytest.mark.parametrize("name", ["a", "b"])
def test_other_work_is_not_continued(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laminogram.checkpoint.megatron.filling._NOTED", 1)
    stack = random_stack(TINY, seed=1)
    with pytest.raises(RuntimeError, match="stopped"):
        write_megatron(
            Counting(parameters(stack), 15), stack.config, tmp_path / "m", resume="a", workers=1
        )
    other = random_stack(TINY, seed=2)
    write_megatron(parameters(other), other.config, tmp_path / "m", resume=name)
    assert same(reread(tmp_path / "m"), other)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = random_stack(TINY, seed=1)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    own = parameters(stack)
    monkeypatch.setattr("laminogram.checkpoint.megatron.filling._put", full)
    with pytest.raises(OSError, match="No space left"):
        write_megatron(own, stack.config, tmp_path / "m")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage())
    with pytest.raises(CheckpointError, match="its disk has 10 left"):
        write_megatron(own, stack.config, tmp_path / "m")
    assert not list(tmp_path.iterdir())


class Usage:
    free = 10


def test_a_tensor_that_is_not_what_was_announced(tmp_path: Path) -> None:
    stack = random_stack(TINY, seed=1)
    own = parameters(stack)
    infos = {n: TensorInfo(tuple(t.shape), t.dtype) for n, t in own.items()}
    lying = own | {"head.weight": own["head.weight"][:5]}
    with pytest.raises(CheckpointError, match=r"output_layer.weight has shape \(5, 32\)"):
        write_megatron(lying, stack.config, tmp_path / "m", infos=infos)
    assert not list(tmp_path.iterdir())


def test_progress_is_told(tmp_path: Path) -> None:
    stack = random_stack(TINY, seed=1)
    told: list[tuple[int, int]] = []
    write_megatron(
        parameters(stack),
        stack.config,
        tmp_path / "m",
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


SLOWLY = """
import sys, time
from tests.checkpoint.megatron.cases import TINY, parameters
from tests.families.sources import random_stack
from laminogram.checkpoint.megatron import filling, write_megatron
filling._NOTED = 1
class Slow(dict):
    def __getitem__(self, name):
        time.sleep(0.05)
        return super().__getitem__(name)
stack = random_stack(TINY, seed=1)
write_megatron(
    Slow(parameters(stack)), stack.config, sys.argv[1], tp=2, layout=sys.argv[2], resume="it"
)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "lines"), [("legacy", 3), ("torch_dist", 9)])
def test_a_killed_process_goes_on(tmp_path: Path, layout: str, lines: int) -> None:
    command = [sys.executable, "-c", SLOWLY, str(tmp_path / "m"), layout]
    journal = tmp_path / ".m.partial" / "journal.jsonl"
    process = subprocess.Popen(command)
    while not journal.exists() or journal.read_text().count("\n") < lines:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "m").exists()
    assert not is_megatron(tmp_path)
    noted = journal.read_text().count("\n")
    assert noted >= lines
    subprocess.run(command, check=True)
    assert same(reread(tmp_path / "m"), random_stack(TINY, seed=1))
    assert [item.name for item in tmp_path.iterdir()] == ["m"]
