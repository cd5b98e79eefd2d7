"""The whole study: every number equals that of its plan alone, and a kill loses nothing."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.infer.speaking import speaking_view
from tests.stacks import view_of

from laminogram.errors import ConfigError, EditError, FamilyError, TokenError
from laminogram.evaluate.divergence import divergence
from laminogram.evaluate.ledger import Ledger
from laminogram.plans import Plan
from laminogram.probe import edits
from laminogram.studies.painters import Painters, paint
from laminogram.studies.painters import scorers as scoring
from laminogram.studies.painters.measures import by_key
from laminogram.studies.painters.pieces import cut
from laminogram.studies.painters.points import distinct, points
from laminogram.studies.painters.sweep import keys
from laminogram.studies.similarity import similarity
from laminogram.view import View

TEXTS = ("the old captain", "took his boat out to sea before dawn", "and saw the light")
SMALL: dict[str, Any] = {"texts": TEXTS, "seeds": 2, "repeats": 2, "progress": False}


class Killed(BaseException):
    """Like a kill: nothing catches it."""


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 40)


def values(result: Painters, key: str) -> list[float]:
    return [one.value for one in by_key(result.measures)[key].values]


def mean_loss(view: View) -> float:
    found = [view.loss(text) for text in TEXTS]
    return sum(one.nats for one in found) / sum(one.tokens for one in found)


@pytest.mark.parametrize("kind", ["llama", "rwkv4", "rwkv7"])
def test_numbers_are_those_of_each_plan_alone(kind: str, small_batches: None) -> None:
    view = speaking_view(kind)
    result = paint(view, **SMALL)
    for point, nats, kl in zip(
        result.points, values(result, "loss"), values(result, "kl"), strict=True
    ):
        alone = [view.using(plan=plan) for plan in point.plans]
        assert nats == pytest.approx(np.mean([*map(mean_loss, alone)]), rel=1e-5), str(point)
        apart = [divergence(view, one, list(TEXTS)).estimate("kl").value for one in alone]
        assert kl == pytest.approx(np.mean(apart), rel=1e-3, abs=1e-6), str(point)
    whole = [view.loss(text) for text in TEXTS]
    size = sum(one.text_bytes or 0 for one in whole)
    bits = sum(one.nats for one in whole) / math.log(2) / size
    assert values(result, "bits_per_byte")[0] == pytest.approx(bits, rel=1e-5)
    assert values(result, "kl")[0] == 0 and values(result, "agreement")[0] == 1


def test_edits_act_under_every_plan() -> None:
    view = speaking_view("llama")
    plain = paint(view, variants=["skip_one"], **SMALL)
    view = view.using(edits=edits.scale("ffn_out", 0.5, layers=0))
    result = paint(view, variants=["swap"], **SMALL)
    assert values(result, "loss")[0] == pytest.approx(mean_loss(view), rel=1e-5)
    assert values(result, "loss")[0] != pytest.approx(values(plain, "loss")[0], rel=1e-4)
    swapped = [mean_loss(view.using(plan=plan)) for plan in ("1, 0, 2", "0, 2, 1")]
    assert values(result, "loss")[1:] == pytest.approx(swapped, rel=1e-5)
    assert result.ranking is None and plain.ranking is not None


def test_an_edit_may_lack_its_position_in_one_text_and_not_in_all(
    small_batches: None, tmp_path: Path
) -> None:
    view = speaking_view("llama")
    rows = [[5, 3, 9], list(range(4, 40))]
    last = view.using(edits=edits.zero("ffn_out", layers=0, positions=[30]))
    few: dict[str, Any] = {"variants": ["swap"], "texts": rows, "progress": False}
    assert values(paint(last, **few), "loss")[0] == pytest.approx(last.loss(rows).mean, rel=1e-5)
    assert similarity(last, rows).count == 39
    nowhere = view.using(edits=edits.zero("ffn_out", layers=0, positions=[50]))
    for _ in range(2):  # the second time all answers are known
        with pytest.raises(EditError, match="selected nothing"):
            paint(nowhere, work=tmp_path, **few)
    with pytest.raises(EditError, match="selected nothing"):
        similarity(nowhere, rows)


def test_an_encoder_with_a_head_is_told_by_its_masked_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "MASK", "Ġt")
    view = speaking_view("bert")
    mask = view.needed_tokenizer().id_of("Ġt")
    result = paint(view, variants=["reverse", "skip"], **SMALL)
    for point, nats in zip(result.points, values(result, "loss"), strict=True):
        total = tokens = 0.0
        for text in TEXTS:
            ids = view.tokens([text]).tokens[0]
            for first in range(8):
                hidden = torch.arange(first, len(ids), 8)
                masked = ids.index_fill(0, hidden, mask) if len(hidden) else ids
                logits = view.using(plan=point.plans[0]).logits(masked[None])[0]
                lost = -logits.log_softmax(-1)[hidden, ids[hidden]]
                total, tokens = total + float(lost.sum()), tokens + len(hidden)
        assert nats == pytest.approx(total / tokens, rel=1e-5), str(point)
    assert "masked" in result.text and "bits_per_byte" not in by_key(result.measures)


def test_an_encoder_without_a_mask_is_told_by_its_states() -> None:
    view = view_of("bert")
    texts = [[3, 8, 1, 30, 7], [5, 9, 2]]
    result = paint(view, variants=["skip_one", "random"], **{**SMALL, "texts": texts})
    for point, distance in zip(result.points, values(result, "distance"), strict=True):
        expected = []
        for plan in point.plans:
            for text in texts:
                ends = [v.embeddings([text])[0].double() for v in (view, view.using(plan=plan))]
                expected.append(1 - torch.cosine_similarity(*ends, dim=0).item())
        assert distance == pytest.approx(np.mean(expected), abs=1e-6), str(point)
    assert values(result, "distance")[0] == 0 and result.summary.values[0].value == 1
    with pytest.raises(FamilyError, match="encoder"):
        paint(view, tasks=[object()], **SMALL)  # type: ignore[list-item]


@pytest.mark.parametrize("after", [0, 1, 5, 9])
def test_what_was_finished_is_not_computed_again(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_batches: None
) -> None:
    view, chosen = speaking_view("llama"), {"variants": ["skip_one", "random"], **SMALL}
    wanted = paint(view, **chosen)
    added: list[tuple[str, str]] = []
    honest = Ledger.add_answers

    def counted(ledger: Ledger, key: str, pack: str, *kept: Any) -> None:
        if len(added) == limit:
            raise Killed
        added.append((key, pack))
        honest(ledger, key, pack, *kept)

    monkeypatch.setattr(Ledger, "add_answers", counted)
    limit = after
    with pytest.raises(Killed):
        paint(view, work=tmp_path, **chosen)
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"key": "cut sho')
    limit, said = -1, []
    found = paint(view, work=tmp_path, say=said.append, **chosen)
    assert (f"there already: {after} readings" in said[0]) == bool(after)
    assert values(found, "loss") == pytest.approx(values(wanted, "loss"), rel=1e-6)
    assert len(added) == len(set(added)) == len(distinct(wanted.points)) * 2
    before = (tmp_path / "results.jsonl").read_bytes()
    again = paint(view, work=tmp_path, **chosen)
    for key in ("loss", "ms_per_token"):
        assert values(again, key) == values(found, key)
    assert len(added) == len(distinct(wanted.points)) * 2
    assert [one.name for one in tmp_path.iterdir()] == ["results.jsonl"]
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_a_result_belongs_to_weights_text_plan_edits_and_memory() -> None:
    plans = distinct(points(3, ["swap"]))
    view = speaking_view("llama")
    half = view.using(edits=edits.scale("ffn_out", 0.5))
    views = [view, speaking_view("llama", seed=1), half, view.using(kv="averaged")]
    views.append(view.using(precision="bf16"))
    found = [key for one in views for key in keys(one, scoring.scorer(one, cut(one, TEXTS)), plans)]
    found += keys(view, scoring.scorer(view, cut(view, TEXTS[:2])), plans)
    assert len(set(found)) == len(found) == 6 * len(plans)
    again = speaking_view("llama")
    assert keys(again, scoring.scorer(again, cut(again, TEXTS)), plans) == found[: len(plans)]


def test_one_long_text_is_cut_into_stretches_that_predict_every_token_once() -> None:
    view = speaking_view("llama")
    text = "the old captain took his boat out to sea " * 5
    ids = view.needed_tokenizer().encode(text)
    pieces = cut(view, text)
    assert pieces.unit == "stretches" and pieces.units == len(pieces.rows) > 1
    assert [one for row in pieces.rows for one in row[1:]] == ids[1:]
    assert all(len(row) <= 64 for row in pieces.rows)
    assert sum(pieces.text_bytes or ()) == len(text) - 1
    result = paint(view, variants=["swap"], **{**SMALL, "texts": text})
    tokens = sum(view.loss([list(row)]).nats for row in pieces.rows) / (len(ids) - 1)
    assert values(result, "loss")[0] == pytest.approx(tokens, rel=1e-5)


def test_tasks_are_scored_beside_the_text_and_kept_in_the_same_folder(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra [eval]")
    from tests.evaluate.benchmarks import write_benchmarks

    from laminogram.evaluate.evaluate import evaluate
    from laminogram.evaluate.tasks import open_task

    (tmp_path / "data").mkdir()
    data = write_benchmarks(tmp_path / "data")
    tasks = [open_task("arc_easy", data=data, limit=4)]
    view, said = speaking_view("llama"), []
    chosen = {"variants": ["skip_one", "random"], "work": tmp_path / "work", **SMALL}
    result = paint(view, tasks=tasks, say=said.append, **chosen)
    assert "tasks: " in said[0]
    for point, score in zip(result.points, values(result, "arc_easy"), strict=True):
        alone = evaluate(view, tasks, point.plans, progress=False)
        assert score == pytest.approx(np.mean([one.score for one in alone])), str(point)
    assert [one.task for one in result.at_chance] == ["arc_easy"]
    assert result.manifest["tasks"][0]["task"] == "arc_easy"
    assert [one.name for one in (tmp_path / "work").iterdir()] == ["results.jsonl"]
    with pytest.raises(FamilyError, match="encoder"):
        paint(speaking_view("bert"), tasks=tasks, **SMALL)


def test_what_cannot_be_painted_says_why() -> None:
    view = view_of("llama", layers=1)
    with pytest.raises(ConfigError, match="1 layer; variants need two"):
        paint(view, **{**SMALL, "texts": [[1, 2, 3]]})
    with pytest.raises(TokenError, match="no text has two tokens"):
        paint(view_of("llama"), **{**SMALL, "texts": [[1], [2]]})
    with pytest.raises(ConfigError, match="text 1 has 70 tokens"):
        paint(view_of("bert"), **{**SMALL, "texts": [[1, 2], [3] * 70]})


def test_tables_hold_every_point_and_layer() -> None:
    view = speaking_view("llama")
    result = paint(view, **SMALL)
    tables = result.tables()
    table = tables["painters"]
    assert {len(column) for column in table.values()} == {len(result.points)}
    assert table["loss"] == values(result, "loss")
    assert [Plan.parse(text) for text in table["plans"][:2]] == [Plan.full(3), Plan.parse("1-2")]
    assert {len(column) for column in tables["painters-layers"].values()} == {3}
    assert sorted(tables["painters-layers"]["rank"]) == [1, 2, 3]
    assert all(0 < one < 1e3 for one in table["ms_per_token"])
    calls = dict(zip(zip(table["variant"], table["repeats"]), table["layer_calls"]))
    assert calls["full", None] == 3 and calls["skip", None] == 1
    assert calls["iterations", 2] == 5, "layer 0, and two in parallel, twice"
    some = result.some("random")
    assert some["variant"] == ["random"] and some["loss_spread"][0] >= 0
    assert result.tokens == result.similarity.tokens


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    rows = [json.dumps({"text": f"{n}: The ferry left the island late. " * 30}) for n in range(8)]
    texts.write_text("\n".join(rows), encoding="utf-8")

    def start(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "laminogram", "paint", "tiny-llama", "--text-only"]
        command += ["--variants", "skip_one,random", "--seeds", "4", "--text-file", str(texts)]
        return subprocess.Popen(
            [*command, "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    out, known = tmp_path / "killed", 0
    answers = out / "work" / "answers.jsonl"
    for more in (1, 9):
        process = start(out)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if answers.exists() and answers.read_bytes().count(b"\n") >= known + more:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        _, said = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, said
        found = re.search(r"there already: ([\d,]+) readings", said)
        assert int(found[1].replace(",", "") if found else 0) == known
        known = answers.read_bytes().count(b"\n")
    finished, whole = start(out), start(tmp_path / "whole")
    _, said = finished.communicate(timeout=240)
    assert finished.returncode == 0 and f"there already: {known} readings" in said
    assert whole.communicate(timeout=240) and whole.returncode == 0
    sums = []
    for folder in (out, tmp_path / "whole"):
        lines = map(json.loads, (folder / "work" / "results.jsonl").read_text().splitlines())
        rows_by_key = {line["key"]: line["sums"] for line in lines if "sums" in line}
        sums.append([rows_by_key[key] for key in sorted(rows_by_key)])
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-3, atol=1e-2)
