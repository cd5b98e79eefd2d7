"""Opening checkpoints: shapes at once, mapped bytes, and every kind of damage named."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from laminogram.checkpoint.reading import open_checkpoint, read_header
from laminogram.errors import CheckpointError

TENSORS = {"a.weight": torch.randn(4, 3), "b": torch.arange(5).bfloat16(), "c": torch.zeros(2, 0)}


def mapped_file(pointer: int) -> str:
    """The file that this process's memory at `pointer` is mapped from, or nothing."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        low, high = (int(part, 16) for part in span.split("-"))
        if low <= pointer < high:
            return name
    return ""


def write(folder: Path, kind: str) -> Path:
    if kind == "shards":
        for number, name in enumerate(TENSORS):
            save_file({name: TENSORS[name]}, folder / f"part-{number}.safetensors")
        placed = {name: f"part-{n}.safetensors" for n, name in enumerate(TENSORS)}
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
        return folder
    path = folder / {"safetensors": "model.safetensors"}.get(kind, f"x.{kind}")
    if kind == "safetensors":
        save_file(TENSORS, path, {"format": "pt"})
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=kind != "bin")
    return folder if kind == "safetensors" else path


@pytest.mark.parametrize("kind", ["safetensors", "shards", "pth", "pt", "bin"])
def test_every_form_gives_the_same(tmp_path: Path, kind: str) -> None:
    checkpoint = open_checkpoint(write(tmp_path, kind))
    assert set(checkpoint.keys) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert checkpoint.tensors[name] == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(checkpoint.get(name), tensor)
    with pytest.raises(CheckpointError, match=r"has no tensor 'd'; it has a.weight"):
        checkpoint.get("d")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's memory map")
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_tensors_lie_in_the_file(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    file = path / "model.safetensors" if path.is_dir() else path
    tensor = open_checkpoint(path).get("a.weight")
    assert mapped_file(tensor.data_ptr()) == str(file)
    before = file.read_bytes()
    tensor.fill_(7.0)
    assert file.read_bytes() == before  # a write stays in this process


def test_entries_that_are_no_tensors_are_kept_apart(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "_version": "0.7", "_every": 6}, tmp_path / "x.pth")
    checkpoint = open_checkpoint(tmp_path / "x.pth")
    assert checkpoint.extras == {"_version": "0.7", "_every": 6}
    assert checkpoint.shapes == {"w": (2,)}
    assert checkpoint.keys == ["w", "_version", "_every"]


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_nothing_in_a_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2), "evil": Hostile()}, "zip.pth")
    Path("raw.pth").write_bytes(pickle.dumps({"evil": Hostile()}))
    for name in ("zip.pth", "raw.pth"):
        with pytest.raises(CheckpointError, match="never executed"):
            open_checkpoint(name)
    assert not Path("executed").exists()


def test_what_a_pickle_asks_for_is_named_and_no_way_round_is_advised(tmp_path: Path) -> None:
    torch.save({"evil": Hostile()}, tmp_path / "zip.pth")
    with pytest.raises(CheckpointError, match=r"it asks for \w+\.mkdir$") as caught:
        open_checkpoint(tmp_path / "zip.pth")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_truncated_files_are_named(tmp_path: Path, kind: str, share: float) -> None:
    path = write(tmp_path, kind)
    file = path / "model.safetensors" if path.is_dir() else path
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"truncated|readable") as error:
        open_checkpoint(path)
    assert file.name in str(error.value)


def test_how_much_is_missing_is_told(tmp_path: Path) -> None:
    file = write(tmp_path, "safetensors") / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    words = f"is truncated: expected {len(whole)} bytes, found {len(whole) - 4}"
    with pytest.raises(CheckpointError, match=words):
        read_header(file)
    file.write_bytes(whole + b"more")
    with pytest.raises(CheckpointError, match="bytes that no tensor claims"):
        read_header(file)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_damage_ends_in_one_clear_error_or_the_tensors(tmp_path: Path, kind: str) -> None:
    """Bytes flipped anywhere: never another exception."""
    path = write(tmp_path, kind)
    file = path / "model.safetensors" if path.is_dir() else path
    whole, dice = file.read_bytes(), random.Random(0)
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(dice.randint(1, 8)):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        file.write_bytes(broken)
        with contextlib.suppress(CheckpointError):
            checkpoint = open_checkpoint(path)
            for name in checkpoint.tensors:
                checkpoint.get(name)


def test_missing_shards_and_broken_promises(tmp_path: Path) -> None:
    write(tmp_path, "shards")
    index = tmp_path / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    (tmp_path / "part-1.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"1 of the 3 shards .* missing: part-1.safetensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "elsewhere").rename(tmp_path / "part-1.safetensors")
    good["weight_map"]["ghost"] = "part-0.safetensors"
    index.write_text(json.dumps(good))
    with pytest.raises(CheckpointError, match=r"promises 1 .* ghost \(in part-0"):
        open_checkpoint(tmp_path)
    good["weight_map"]["ghost"] = "../part-0.safetensors"
    index.write_text(json.dumps(good))
    with pytest.raises(CheckpointError, match="outside the directory"):
        open_checkpoint(tmp_path)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="no index of shards"):
        open_checkpoint(tmp_path)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=r"has no weight file; expected model.safetensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"no weight file; expected .safetensors"):
        open_checkpoint(tmp_path / "notes.txt")
    for name in ("a.pth", "b.pth"):
        torch.save(TENSORS, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"has a.pth, b.pth; expected"):
        open_checkpoint(tmp_path)
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list; expected tensors by name"):
        open_checkpoint(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"holds no tensors; its keys are \['epoch'\]"):
        open_checkpoint(tmp_path / "none.pth")
