from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="needs the extra [eval]")

import pyarrow as pa
import pyarrow.parquet as pq
from tests.evaluate.benchmarks import sentence, write_benchmarks

from laminogram.errors import ConfigError
from laminogram.evaluate import passages
from laminogram.evaluate.tasks import open_task


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("data"))


def test_prompts_are_the_harness_own(data: Path) -> None:
    task = open_task("arc_easy", data=data, limit=2)
    row = json.loads((data / "arc_easy" / "test.jsonl").read_text().splitlines()[0])
    first = task.requests.items[0]
    assert first.context == f"Question: {row['question']}\nAnswer:"
    assert first.continuation == f" {row['choices']['text'][0]}"
    assert task.requests.documents == 2
    assert task.requests.hash == open_task("arc_easy", data=data, limit=2).requests.hash


def test_answers_become_the_harness_metrics(data: Path) -> None:
    task = open_task("arc_easy", data=data)
    right = [task.inner.doc_to_target(one.doc) == one.idx for one in task.instances]
    for good, score in ((right, 1.0), ([not one for one in right], 0.0)):
        values = task.values([(0.0 if one else -99.0, False) for one in good])
        assert task.aggregation("acc,none")(values["acc,none"]) == score
    assert task.main_metric == "acc"
    assert task.chance == pytest.approx((1 / 3 + 1 / 4) / 2)


def test_classes_have_the_commonest_one_as_chance(data: Path) -> None:
    assert open_task("sst2", data=data).chance == 0.5
    assert open_task("sst2", data=data, limit=3).chance == pytest.approx(2 / 3)
    assert open_task("addition").chance == 0


def test_a_part_of_a_benchmark_has_its_own_name(data: Path) -> None:
    task = open_task("hellaswag-4", data=data)
    assert (task.name, task.requests.documents) == ("hellaswag-4", 4)
    with pytest.raises(ConfigError, match=r"validation_4\.jsonl"):
        open_task("hellaswag", data=data)


def test_parquet_serves_as_well(data: Path, tmp_path: Path) -> None:
    lines = (data / "arc_easy" / "test.jsonl").read_text().splitlines()
    (tmp_path / "arc_easy").mkdir()
    table = pa.Table.from_pylist([json.loads(line) for line in lines])
    pq.write_table(table, tmp_path / "arc_easy" / "test.parquet")
    ours, theirs = (open_task("arc_easy", data=where) for where in (tmp_path, data))
    assert ours.requests.hash == theirs.requests.hash


def test_examples_come_from_training_documents_and_are_the_same_each_time(data: Path) -> None:
    task = open_task("gsm8k", data=data, limit=2, shots=3)
    assert task.requests.items[0].context.count("Question:") == 4
    assert task.requests.items[0].until[0] == "Question:"
    again = open_task("gsm8k", data=data, limit=2, shots=3)
    assert again.requests.hash == task.requests.hash
    with pytest.raises(ConfigError, match="training"):
        open_task("arc_easy", data=data, shots=1)


def test_questions_out_of_a_text(tmp_path: Path) -> None:
    import random

    path = tmp_path / "text.txt"
    path.write_text(sentence(random.Random(3), 900))
    last = open_task("last_word", text_file=path)
    for request in last.requests:
        assert len(request.continuation.strip()) >= passages.LETTERS
        assert len(request.context.split()) >= passages.WORDS - 1
    four = open_task("continuation", text_file=path)
    assert len(four.requests) == 4 * four.requests.documents
    assert four.chance == 0.25
    gold = [four.inner.doc_to_target(one.doc) for one in four.instances[::4]]
    text = path.read_text()
    for place, right in enumerate(gold):
        asked = four.requests.items[4 * place + right]
        assert asked.context + asked.continuation in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "no folder nonsense"),
        ("arc_challenge", "no folder arc_challenge"),
        ("last_word", "--text-file"),
    ],
)
def test_what_does_not_exist_is_named(name: str, message: str, data: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        open_task(name, data=data)


def test_benchmarks_need_their_files_and_files_need_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data"):
        open_task("arc_easy")
    with pytest.raises(ConfigError, match="limit is 0"):
        open_task("addition", limit=0)
    folder = tmp_path / "winogrande"
    folder.mkdir()
    for text, message in (("", "no document"), ("{", "line 1"), ("[1]", "no object")):
        (folder / "validation.jsonl").write_text(text)
        with pytest.raises(ConfigError, match=message):
            open_task("winogrande", data=tmp_path)
