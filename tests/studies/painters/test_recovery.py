"""When a variant has recovered: made curves with known answers, and a run of the program, tiny."""

from __future__ import annotations

import json
import lzma
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXPERIMENT = Path(__file__).resolve().parents[3] / "experiments" / "painters"
STEPS = (0, 5, 10, 20)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENT))
    for name in ("books", "rows", "recover", "recovery"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def row(variant: str, losses: list[list[float]], seed: int = 0) -> dict[str, Any]:
    """losses: of each book, at each of `STEPS`."""
    curve = [[step, [book[i] for book in losses]] for i, step in enumerate(STEPS)]
    key = ["m", variant, 0 if variant == "full" else 3, variant, seed]
    return {"key": key, "rate": 1e-3, "rows": 8, "tokens": 128, "curve": curve}


def test_steps_are_those_from_which_on_the_gap_stays_small(program: None) -> None:
    from recovery import recoveries

    full = [row("full", [[3.0, 3.1, 3.2, 3.1], [4.0, 4.0, 4.0, 4.0]], seed) for seed in (0, 1)]
    gaps = {
        "at once": [0.04, 0.02, 0.03, 0.01],
        "at 10": [1.0, 0.3, 0.04, 0.05],
        "for a while": [1.0, 0.04, 0.3, 0.09],
        "never": [1.0, 0.9, 0.8, 0.7],
    }
    rows = list(full)
    for name, gap in gaps.items():
        for base in full:
            losses = np.array([one for _, one in base["curve"]]).T + np.array(gap)
            rows.append(row(name, losses.tolist(), base["key"][-1]))
    found = {one["variant"]: one for one in recoveries(rows)}
    expected = {"at once": 0, "at 10": 10, "for a while": math.inf, "never": math.inf}
    assert {name: one["steps_0.05"] for name, one in found.items()} == expected
    assert found["for a while"]["steps_0.1"] == 20
    assert (found["at 10"]["left_0.5"], found["at 10"]["left_0.25"]) == (5, 10)
    assert found["never"]["left_0.5"] == math.inf
    for name, one in found.items():
        assert one["steps_0.05_low"] == one["steps_0.05_high"] == expected[name], "books agree"
        assert [float(one[f"gap_{step}"]) for step in STEPS] == pytest.approx(gaps[name])
        assert one["seeds"] == 2
        assert [float(one[f"full_{step}"]) for step in STEPS] == [3.5, 3.55, 3.6, 3.55]
        above = float(one["above_untouched"])
        assert above == pytest.approx(gaps[name][-1] + 0.05), "training cost the full plan 0.05"


def test_an_interval_is_over_books(program: None) -> None:
    from recovery import recoveries

    books = 12
    full = row("full", [[3.0] * 4] * books)
    half = [[4.0, 3.0 + 0.08 * (book % 2), 3.0, 3.0] for book in range(books)]
    (found,) = recoveries([full, row("some", half)])
    assert found["steps_0.05"] == 5
    assert (found["steps_0.05_low"], found["steps_0.05_high"]) == (5, 10)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name, count in (("toy.train.0", 4), ("toy.val", 2)):
        with lzma.open(tmp_path / f"{name}.jsonl.xz", "wt", encoding="utf-8") as file:
            for number in range(count):
                text = f"Book {number}. The captain of the old ship saw a light. " * 120
                file.write(json.dumps({"text": text}) + "\n")
    return tmp_path


def test_a_run_is_repeatable_and_goes_on_where_it_was(
    program: None, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import recover
    import rows

    def run(out: Path, *middles: str) -> list[dict[str, Any]]:
        words = ["recover", "tiny-llama", "--corpus", str(corpus), "--out", str(out)]
        words += ["--device", "cpu", "--rows", "2", "--tokens", "16", "--at", "1", "2"]
        words += ["--trial", "1", "--rates", "1e-3", "1e-2", "--middles", *middles]
        monkeypatch.setattr(sys, "argv", words)
        recover.main()
        return rows.read(out)

    first = run(tmp_path / "first.jsonl", "1")
    assert [one["key"][1:3] for one in first[::2]] == [["full", 0], ["looped", 1], ["skip", 1]]
    assert all(step in (0, 1, 2) and len(of) == 2 for one in first for step, of in one["curve"])
    assert {one["key"][-1]: len(one["tried"]) for one in first} == {0: 2, 1: 1}
    again = run(tmp_path / "first.jsonl", "1")
    assert again == first
    torn = tmp_path / "torn.jsonl"
    torn.write_text("".join(json.dumps(one) + "\n" for one in first[:-1]) + '{"key": ["tiny')
    last = run(torn, "1")[-1]
    assert len(rows.read(torn)) == len(first) and last["key"] == first[-1]["key"]
    np.testing.assert_allclose(last["curve"][-1][1], first[-1]["curve"][-1][1], atol=1e-3)
