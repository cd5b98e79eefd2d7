"""Pickles are read, never executed: hostile ones, damaged ones, and those of other programs."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import sys
import types
from argparse import Namespace
from collections import OrderedDict
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laminogram.checkpoint.megatron.archives import (
    MappedFile,
    StoredTensor,
    blanks,
    places,
    read_archive,
    write_hollow,
)
from laminogram.checkpoint.megatron.records import UNREADABLE, Record, Unpickler, plain
from laminogram.checkpoint.reading import TensorInfo
from laminogram.errors import CheckpointError


def read(content: Any, folder: Path) -> Any:
    torch.save(content, folder / "x.pt")
    return read_archive(MappedFile(folder / "x.pt"))


def foreign(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that exists while it is pickled, with an enumeration, a class and a function."""
    module = types.ModuleType("other_program.enums")
    kind = Enum("ModelType", {"encoder_or_decoder": 1}, module=module.__name__)
    made = type("Scaler", (), {"__module__": module.__name__})
    module.__dict__.update(ModelType=kind, Scaler=made)
    monkeypatch.setitem(sys.modules, "other_program", types.ModuleType("other_program"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_arguments_with_classes_of_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = foreign(monkeypatch)
    scaler = module.Scaler()
    scaler.scale = 7
    arguments = Namespace(kind=module.ModelType.encoder_or_decoder, scaler=scaler, hidden=[3, None])
    arguments.params_dtype = torch.bfloat16
    rest = {"rng": np.random.get_state(), "path": Path("a") / "b", "extra": io.BytesIO(b"123")}
    torch.save({"args": arguments, "weights": OrderedDict(a=torch.ones(2)), **rest}, tmp_path / "x")
    monkeypatch.undo()
    content = read_archive(MappedFile(tmp_path / "x"))
    found = plain(content["args"])
    assert found["hidden"] == [3, None]
    assert found["params_dtype"] is torch.bfloat16
    assert found["kind"].path == "other_program.enums.ModelType"
    assert found["kind"].args == (1,)
    assert found["scaler"].fields == {"scale": 7}
    assert torch.equal(content["weights"]["a"].get(), torch.ones(2))
    assert "other_program.enums" not in sys.modules


class Hostile:
    """Asks its reader to make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_executed(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "made"
    data = pickle.dumps({"a": Hostile(target), "b": eval, "c": [Hostile(target)]}, protocol)
    content = Unpickler(io.BytesIO(data)).load()
    torch.save(Hostile(target), tmp_path / "x.pt", pickle_protocol=protocol)
    assert isinstance(read_archive(MappedFile(tmp_path / "x.pt")), Record)
    assert not target.exists()
    assert content["a"].path.endswith(".system")
    assert issubclass(content["b"], Record)


def test_a_pickle_cannot_reach_through_what_it_is_given(tmp_path: Path) -> None:
    """It sets attributes on what stands for a tensor's builder; another file's is another one."""
    steps = (
        b"ctorch._utils\n_rebuild_tensor_v2\n}X\x05\x00\x00\x00helloK\x07sb.",
        b"ccollections\nOrderedDict\n(N}X\x05\x00\x00\x00helloK\x07stb.",
        b"ctorch\nfloat32\n}X\x05\x00\x00\x00helloK\x07sb.",
    )
    for data in steps:
        try:
            Unpickler(io.BytesIO(b"\x80\x02" + data)).load()
        except UNREADABLE:
            continue
    assert not hasattr(torch._utils._rebuild_tensor_v2, "hello")
    assert not hasattr(OrderedDict, "hello")
    assert not hasattr(Unpickler(io.BytesIO()).find_class("collections", "OrderedDict"), "hello")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).view(3, 4),
        torch.arange(12.0).view(3, 4).t(),
        torch.arange(20, dtype=torch.int64)[3::2],
        torch.ones(2, 3, dtype=torch.bfloat16),
        torch.zeros(0, 4),
        torch.tensor(3.5, dtype=torch.float16),
        torch.nn.Parameter(torch.randn(2, 2)),
        torch.ones(3).to(torch.float8_e4m3fn),
    ],
)
def test_tensors_are_found_where_they_lie(tmp_path: Path, tensor: torch.Tensor) -> None:
    stored = read({"before": torch.ones(5), "it": tensor}, tmp_path)["it"]
    assert isinstance(stored, StoredTensor)
    assert stored.info == TensorInfo(tuple(tensor.shape), tensor.dtype)
    assert torch.equal(stored.get().float(), tensor.detach().float())
    # In the middle of another file, at any place: copied where the numbers are not aligned.
    data = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "y").write_bytes(b"?" * 13 + data + b"!" * 7)
    shifted = read_archive(MappedFile(tmp_path / "y"), 13, len(data))["it"].get()
    assert torch.equal(shifted.float(), tensor.detach().float())


def test_an_aligned_tensor_is_mapped_not_copied(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(4)}, tmp_path / "x")
    file = MappedFile(tmp_path / "x")
    tensor = read_archive(file)["a"].get()
    begin = file.bytes.data_ptr()
    assert begin <= tensor.data_ptr() < begin + file.size


@given(
    cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=3)
)
@settings(max_examples=60, deadline=None)
def test_damaged_archives_are_one_error(
    tmp_path_factory: pytest.TempPathFactory, cut: float, flips: list[tuple[float, int]]
) -> None:
    file = tmp_path_factory.mktemp("damaged") / "x"
    torch.save({"args": Namespace(a=1), "model": {"w": torch.ones(3, 3)}}, file)
    data = bytearray(file.read_bytes())
    data = data[: round(len(data) * cut)] if not flips else data
    for place, change in flips:
        data[min(len(data) - 1, int(place * len(data)))] ^= change
    file.write_bytes(data)
    with contextlib.suppress(CheckpointError):
        content = read_archive(MappedFile(file))
        weights = content.get("model") if isinstance(content, dict) else None
        tensor = weights.get("w") if isinstance(weights, dict) else None
        if isinstance(tensor, StoredTensor):
            tensor.get().sum()


def test_hollow_archives_are_filled_afterwards(tmp_path: Path) -> None:
    wanted = {"a": torch.randn(3, 4), "b": torch.ones(2, dtype=torch.int64), "c": torch.randn(1)}
    infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in wanted.items()}
    file = tmp_path / "x.pt"
    write_hollow(file, {"note": 1, "model": blanks(infos)})
    with file.open("r+b") as stream:
        for place, tensor in zip(places(file).values(), wanted.values(), strict=True):
            stream.seek(place)
            stream.write(tensor.numpy().tobytes())
    loaded = torch.load(file, weights_only=True)
    ours = read_archive(MappedFile(file))
    for name, tensor in wanted.items():
        assert torch.equal(loaded["model"][name], tensor)
        assert torch.equal(ours["model"][name].get(), tensor)
