from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from laminogram.probe.folder import GramFolder
from laminogram.probe.gram import Gram
from laminogram.probe.store import StoreError

REQUEST = {"sites": ["ffn_out"], "plan": "0-3", "weights": {"hash": "abc", "dtype": "bf16"}}


def shard(rows: slice) -> Gram:
    size = rows.stop - rows.start
    x = torch.arange(rows.start, rows.stop).reshape(size, 1, 1).expand(size, 2, 3) * 1.0
    ones = torch.ones(size, 2)
    return Gram({("ffn_out", 0): x}, {"ffn_out": "BTC"}, {0: (0, None)}, ones, ones)


def begin(path: Path, request: dict = REQUEST, documents: int = 10, size: int = 4) -> GramFolder:
    return GramFolder.create_or_resume(path, request, documents, size)


def test_a_recording_in_shards(tmp_path):
    folder = begin(tmp_path / "deep" / "out")
    assert len(folder) == 3
    assert folder.pending() == [(0, slice(0, 4)), (1, slice(4, 8)), (2, slice(8, 10))]
    assert "pending: 0-2" in repr(folder)
    for index, rows in folder.pending():
        folder.write(index, shard(rows))
    assert folder.complete
    assert "complete" in repr(folder)
    assert folder[-1]["ffn_out"].shape == (1, 2, 2, 3)
    again = GramFolder.open(folder.path)
    whole = Gram.concatenate(again)
    assert whole["ffn_out", 0][:, 0, 0].tolist() == list(range(10))
    assert again.request == REQUEST
    with pytest.raises(IndexError, match="no shard 3; there are 3"):
        folder[3]


def test_a_resumed_recording_does_only_what_is_left(tmp_path):
    begin(tmp_path).write(1, shard(slice(4, 8)))
    folder = begin(tmp_path, {**REQUEST, "sites": ("ffn_out",)})  # JSON knows no tuples
    assert [index for index, _ in folder.pending()] == [0, 2]
    with pytest.raises(StoreError, match=r"shard 0 of .* is not recorded yet"):
        list(folder)
    with pytest.raises(ValueError, match="shard 2 is of 2 documents, 8 to 9; the gram has 3 rows"):
        folder.write(2, shard(slice(0, 3)))


def test_another_request_is_refused_saying_what_differs(tmp_path):
    begin(tmp_path)
    other = {**REQUEST, "weights": {"hash": "xyz", "dtype": "bf16"}, "seed": 1}
    with pytest.raises(StoreError) as error:
        begin(tmp_path, other, documents=12)
    message = str(error.value)
    assert 'weights.hash is "abc" there and "xyz" here' in message
    assert "seed is null there and 1 here" in message
    assert "documents is 10 there and 12 here" in message
    assert "plan" not in message
    assert "dtype" not in message


def test_what_is_no_recording_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match=r"not empty and holds no recording \(found thesis.txt\)"):
        begin(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]
    with pytest.raises(StoreError, match=r"has no index\.json"):
        GramFolder.open(tmp_path)
    with pytest.raises(ValueError, match="request's 'edits' is not a JSON value"):
        begin(tmp_path / "new", {"edits": object()})
    with pytest.raises(ValueError, match="at least 1"):
        begin(tmp_path / "new", documents=0)


def test_a_changed_index_and_foreign_or_damaged_shards_are_noticed(tmp_path):
    folder = begin(tmp_path / "a")
    index = tmp_path / "a" / "index.json"
    good = index.read_text()
    index.write_text(good.replace("0-3", "0-2"))
    with pytest.raises(StoreError, match="was changed"):
        GramFolder.open(folder.path)
    index.write_text(good[:40])
    with pytest.raises(StoreError, match="is damaged"):
        GramFolder.open(folder.path)
    index.write_text(good)
    other = begin(tmp_path / "b", {"sites": []})
    other.write(0, shard(slice(0, 4)))
    other.shard(0).rename(folder.shard(0))
    with pytest.raises(StoreError, match="belongs to another recording"):
        folder.pending()
    folder.write(0, shard(slice(0, 4)))
    folder.shard(0).rename(folder.shard(1))
    with pytest.raises(StoreError, match="another place in it"):
        folder.pending()
    folder.shard(1).write_bytes(b"12345678")
    with pytest.raises(StoreError, match="cannot be read"):
        folder.pending()


SLOW_WRITER = """
import sys, time
import torch
from laminogram.probe import store
from laminogram.probe.folder import GramFolder
from laminogram.probe.gram import Gram

def stuck(spare, path):
    if path.name == "shard-00001.safetensors":
        with open(spare, "rb+") as file:  # a half-written file
            file.truncate(100)
        print("half", flush=True)
        time.sleep(60)
    finish(spare, path)

finish, store.publish = store.publish, stuck
folder = GramFolder.create_or_resume(sys.argv[1], {"sites": ["ffn_out"]}, 6, 2)
for index, rows in folder.pending():
    x = torch.full((2, 2, 3), float(index))
    ones = torch.ones(2, 2)
    folder.write(index, Gram({("ffn_out", 0): x}, {"ffn_out": "BTC"}, {}, ones, ones))
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process the POSIX way")
def test_a_killed_process_leaves_only_whole_shards(tmp_path):
    path = tmp_path / "out"
    source = Path(sys.modules["laminogram.probe.folder"].__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SLOW_WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        begin(path, {"sites": ["ffn_out"]}, 6, 2)
        assert len(list(path.glob(".*.tmp"))) == 1  # its writer lives: not ours to remove
        process.send_signal(signal.SIGKILL)
    folder = begin(path, {"sites": ["ffn_out"]}, 6, 2)
    assert not list(path.glob(".*.tmp"))
    assert [index for index, _ in folder.pending()] == [1, 2]
    before = folder.shard(0).stat().st_mtime_ns
    for index, rows in folder.pending():
        folder.write(index, shard(rows))
    assert folder.complete
    assert folder.shard(0).stat().st_mtime_ns == before
    assert json.loads((path / "index.json").read_text())["documents"] == 6
