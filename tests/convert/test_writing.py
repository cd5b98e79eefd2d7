"""Writing: complete or not there, resumed after any break, the same bytes however written."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.convert import models
from tests.families import reference as ref
from torch import Tensor
from transformers import AutoModelForCausalLM

from laminogram import load
from laminogram.checkpoint import write as writing
from laminogram.checkpoint.fingerprint import tensor_bytes
from laminogram.convert import proof
from laminogram.convert.prepare import Prepared, prepare
from laminogram.convert.write import Converted, convert, write
from laminogram.errors import CheckpointError, LaminogramError

SHARD = 12_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make("qwen2", tmp_path_factory.mktemp("qwen2"))


@pytest.fixture
def prepared(source: Path) -> Prepared:
    return prepare(source, "llama")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def quick(prepared: Prepared, dst: Path, **how: object) -> Converted:
    return write(prepared, dst, verify=False, max_shard_bytes=SHARD, **how)  # type: ignore[arg-type]


def breaking(prepared: Prepared, after: int, error: BaseException) -> Prepared:
    """The same conversion, whose making of tensors fails after that many."""

    class Broken(Prepared):
        made = 0

        def make(self, name: str) -> Tensor:
            type(self).made += 1
            if type(self).made > after:
                raise error
            return super().make(name)

    fields = {name: getattr(prepared, name) for name in Prepared.__dataclass_fields__}
    return Broken(**fields)


def opens(folder: Path) -> bool:
    """Whether any program would take a folder for a model."""
    try:
        load(folder)
    except LaminogramError:
        try:
            AutoModelForCausalLM.from_pretrained(folder)
        except (OSError, ValueError):
            return False
    return True


# The same bytes, whoever writes


def test_threads_and_single_files_write_the_same_tensors(
    prepared: Prepared, tmp_path: Path
) -> None:
    one = quick(prepared, tmp_path / "one", workers=1)
    four = quick(prepared, tmp_path / "four", workers=4)
    assert bytes_of(one.path) == bytes_of(four.path)
    assert len(list(one.path.glob("model-*.safetensors"))) > 3
    whole = write(prepared, tmp_path / "whole", verify=False)
    shards: dict[str, Tensor] = {}
    for file in one.path.glob("*.safetensors"):
        shards |= load_file(file)
    alone = load_file(whole.path / "model.safetensors")
    assert set(alone) == set(shards)
    assert all(torch.equal(alone[name], x) for name, x in shards.items())


def test_each_tensor_keeps_its_dtype_and_one_can_be_asked_for(source: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "config.json").write_bytes((source / "config.json").read_bytes())
    weights = load_file(source / "model.safetensors")
    low = {name: x if "norm" in name else x.bfloat16() for name, x in weights.items()}
    save_file(low, mixed / "model.safetensors")
    kept = load_file(convert(mixed, tmp_path / "kept", "llama").path / "model.safetensors")
    assert all(kept[name].dtype == x.dtype for name, x in low.items())
    assert kept["model.layers.0.self_attn.o_proj.bias"].dtype == torch.bfloat16
    wide = convert(mixed, tmp_path / "wide", "llama", dtype=torch.float32)
    found = load_file(wide.path / "model.safetensors")
    assert {x.dtype for x in found.values()} == {torch.float32}
    assert json.loads((wide.path / "config.json").read_text())["dtype"] == "float32"


def test_rounding_is_said_and_bounded(tmp_path: Path) -> None:
    folder = models.make("gemma", tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({name: x.bfloat16() for name, x in weights.items()}, folder / "model.safetensors")
    coarse = prepare(folder, "llama")
    assert coarse.verdict == "exact in fp32, rounded to bfloat16"
    assert prepare(folder, "llama", dtype=torch.float32).verdict == "exact in fp32, in float32"
    done = write(coarse, tmp_path / "coarse")
    assert done.proof is not None and 1e-4 < done.proof.largest / done.proof.scale < 0.1
    fine = convert(folder, tmp_path / "fine", "llama", dtype=torch.float32)
    assert fine.proof is not None and fine.proof.largest < 1e-4 * fine.proof.scale


def test_a_narrower_dtype_is_said_and_bounded(source: Path, tmp_path: Path) -> None:
    done = convert(source, tmp_path / "narrow", "llama", dtype=torch.bfloat16)
    assert done.proof is not None and 0 < done.proof.largest < 0.1 * done.proof.scale
    manifest = json.loads((done.path / "laminogram.json").read_text())
    assert manifest["grade"] == "same numbers, rounded to bfloat16"


# Breaks


@pytest.mark.parametrize("after", [0, 3, 17, 37])
def test_a_break_leaves_nothing_that_opens_and_goes_on(
    prepared: Prepared, tmp_path: Path, after: int
) -> None:
    whole = quick(prepared, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        quick(breaking(prepared, after, KeyboardInterrupt()), tmp_path / "dst")
    assert not (tmp_path / "dst").exists()
    work = tmp_path / ".dst.converting"
    assert not opens(work / "result")
    finished = {file: file.stat().st_mtime_ns for file in work.glob("result/*.safetensors")}
    assert len(finished) > 1 or after < 17
    done = quick(prepared, tmp_path / "dst")
    assert bytes_of(done.path) == bytes_of(whole.path)
    for file, time_ns in finished.items():  # not written once more
        assert (done.path / file.name).stat().st_mtime_ns == time_ns
    assert not work.exists()


def test_a_damaged_or_foreign_rest_is_written_anew(
    prepared: Prepared, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        quick(breaking(prepared, 30, KeyboardInterrupt()), tmp_path / "dst")
    work = tmp_path / ".dst.converting"
    first, second = sorted(work.glob("result/*.safetensors"))[:2]
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    second.write_bytes(second.read_bytes()[:-3])
    (work / "result" / "model.py").write_text("never mine")
    done = quick(prepared, tmp_path / "dst")
    assert bytes_of(done.path) == bytes_of(quick(prepared, tmp_path / "whole").path)

    with pytest.raises(KeyboardInterrupt):
        quick(breaking(prepared, 30, KeyboardInterrupt()), tmp_path / "other")
    other = quick(prepare(source, "internlm2"), tmp_path / "other")
    assert json.loads((other.path / "config.json").read_text())["model_type"] == "internlm2"


def test_a_full_disk(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Free", (), {"free": 10}))
    with pytest.raises(CheckpointError, match="GB free"):
        quick(prepared, tmp_path / "dst")
    monkeypatch.undo()
    write_at, left = os.pwrite, [20]

    def full(*args: object) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_at(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CheckpointError, match=r"No space left.*stays in .*\.dst\.converting"):
        quick(prepared, tmp_path / "dst", workers=2)
    monkeypatch.undo()
    assert not (tmp_path / "dst").exists() and not opens(tmp_path / ".dst.converting" / "result")
    quick(prepared, tmp_path / "dst")


def test_a_missing_shard_and_a_destination_that_exists(source: Path, tmp_path: Path) -> None:
    sharded = quick(prepare(source, "llama"), tmp_path / "sharded").path
    next(sharded.glob("model-00002-*")).unlink()
    with pytest.raises(CheckpointError, match="are missing: model-00002"):
        convert(sharded, tmp_path / "dst", "qwen2")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("kept")
    with pytest.raises(CheckpointError, match="exists"):
        convert(source, tmp_path / "there", "llama")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["sharded", "there"]
    assert (tmp_path / "there" / "mine.txt").read_text() == "kept"


def test_two_at_once_are_one_too_many(prepared: Prepared, tmp_path: Path) -> None:
    said: list[str] = []

    def meanwhile(done: int, total: int) -> None:
        if not said:
            with pytest.raises(CheckpointError) as error:
                quick(prepared, tmp_path / "dst")
            said.append(str(error.value))

    quick(prepared, tmp_path / "dst", workers=1, progress=meanwhile)
    assert "another conversion is writing in" in said[0]


def test_progress_reaches_the_whole(prepared: Prepared, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    quick(prepared, tmp_path / "dst", progress=lambda *now: seen.append(now))
    assert seen == sorted(seen)
    assert seen[-1] == (prepared.nbytes, prepared.nbytes)


def test_a_result_that_fails_its_proof_is_not_kept(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = writing.tensor_bytes

    def wrong(tensor: Tensor) -> object:
        return whole(tensor + 1 if tensor.shape[0] == ref.VOCAB else tensor)

    monkeypatch.setattr(writing, "tensor_bytes", wrong)
    with pytest.raises(CheckpointError, match="does not compute what the source does"):
        write(prepared, tmp_path / "dst")
    assert not list(tmp_path.iterdir())
    assert tensor_bytes is whole


def test_the_proof_sees_a_small_difference() -> None:
    want = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    got = want.clone()
    got[1, 4, 3] += 50
    found = proof._compare(want, got, 0)
    assert found.largest == pytest.approx(50) and found.kl > 0
    assert found.agreement == pytest.approx(0.9)
    assert proof._compare(want, want, 0).kl == 0


# Real processes


_CONVERT = """
import sys
from laminogram.convert.prepare import prepare
from laminogram.convert.write import write
done = write(prepare(sys.argv[1], "llama"), sys.argv[2], verify=False, max_shard_bytes=400_000)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_opens_and_goes_on(tmp_path: Path) -> None:
    """SIGKILL at random moments of the writing, again and again until one run gets through."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 24}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}
    Qwen2ForCausalLM(Qwen2Config(**sizes, **heads)).save_pretrained(tmp_path / "source")
    command = [sys.executable, "-c", _CONVERT, str(tmp_path / "source"), str(tmp_path / "dst")]
    work, chance, kills = tmp_path / ".dst.converting", random.Random(0), 0
    for _ in range(8):
        process = subprocess.Popen(command, start_new_session=True)
        while not work.exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.15))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        if (tmp_path / "dst").exists():
            break
        kills += 1
        assert not opens(work / "result")
    assert kills > 0
    if not (tmp_path / "dst").exists():
        subprocess.run(command, check=True, timeout=120)
    want = convert(tmp_path / "source", tmp_path / "whole", "llama", max_shard_bytes=400_000)
    got = bytes_of(tmp_path / "dst")
    shards = {name: data for name, data in bytes_of(want.path).items() if "safetensors" in name}
    assert len(shards) > 20
    assert all(got[name] == data for name, data in shards.items())
