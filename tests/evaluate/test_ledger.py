"""What a ledger said to keep is on the disk, and a file cut anywhere keeps its whole lines."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laminogram.evaluate.ledger import Ledger
from laminogram.probe.store import StoreError

FILES = ("answers.jsonl", "results.jsonl")


def test_a_line_is_on_the_disk_when_adding_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[int, int] = {}
    honest = os.fsync

    def watched(file: int) -> None:
        honest(file)
        found = os.fstat(file)
        synced[found.st_ino] = found.st_size

    monkeypatch.setattr(os, "fsync", watched)
    ledger = Ledger(tmp_path)
    for number in range(3):
        ledger.add_answers(f"key {number}", "pack", [[-1.5, True]] * number)
        ledger.add_result(f"key {number // 2}", {"sums": [number]})
        for name in FILES:
            found = (tmp_path / name).stat()
            assert synced[found.st_ino] == found.st_size > 0
    assert tmp_path.stat().st_ino in synced, "the names of new files are to last too"


@given(lines=st.integers(0, 4), cut=st.integers(0, 400))
def test_whole_lines_outlive_a_cut_anywhere(lines: int, cut: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ledger = Ledger(folder)
        for number in range(lines):
            ledger.add_answers("key", str(number), ["ü" * number])
        file = folder / "answers.jsonl"
        whole = file.read_bytes() if lines else b""
        file.write_bytes(whole[:cut])
        again = Ledger(folder)
        kept = whole[:cut].count(b"\n")
        for number in range(lines):
            expected = ["ü" * number] if number < kept else None
            assert again.answers("key", str(number)) == expected
        again.add_answers("key", "more", [1])
        assert Ledger(folder).answers("key", "more") == [1]


def test_answers_go_when_their_results_are_there(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add_answers("a", "pack", [1])
    ledger.add_answers("b", "pack", [2])
    ledger.add_result("a", {"sums": [1]})
    ledger.close()
    assert Ledger(tmp_path).answers("b", "pack") == [2]
    ledger.add_result("b", {"sums": [2]})
    ledger.close()
    assert [one.name for one in tmp_path.iterdir()] == ["results.jsonl"]
    assert Ledger(tmp_path).result("b") == {"key": "b", "sums": [2]}


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("no JSON\n")
    with pytest.raises(StoreError, match="line 1, is damaged"):
        Ledger(tmp_path)
    (tmp_path / "results.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(StoreError, match="no results"):
        Ledger(tmp_path)
