"""Sweeps: what is known is not computed again, what was killed loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra [eval]")

from tests.evaluate.benchmarks import write_benchmarks
from tests.infer.speaking import speaking_view
from tests.stacks import view_of

from laminogram.errors import EditError, FamilyError, PlanError
from laminogram.evaluate import evaluate as module
from laminogram.evaluate.evaluate import Manner, answer, evaluate
from laminogram.evaluate.ledger import Ledger
from laminogram.evaluate.result import TaskResult
from laminogram.evaluate.tasks import Task, open_task
from laminogram.probe import edits
from laminogram.probe.store import StoreError

PLANS = ("0-2", "0, 2, 1", "0, mean(1-2)")
SMALL = Manner(batch_tokens=300)


class Killed(BaseException):
    """Like a kill: nothing catches it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tasks(data: Path) -> list[Task]:
    return [open_task(name, data=data, limit=4) for name in ("arc_easy", "lambada_openai")]


def told(results: list[TaskResult]) -> list[Any]:
    return [(one.task, one.plan, one.answers, one.metrics, one.intervals) for one in results]


def close(found: list[TaskResult], wanted: list[TaskResult]) -> None:
    """The same answers; a batch of fewer plans may round otherwise."""
    assert [(one.task, one.plan) for one in found] == [(one.task, one.plan) for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        for (a, greedy), (b, likeliest) in zip(one.answers, other.answers, strict=True):
            assert a == pytest.approx(b, rel=1e-5) and greedy == likeliest


@pytest.mark.parametrize("after", [0, 1, 4, 8])
def test_a_killed_sweep_goes_on_and_computes_nothing_twice(
    after: int, tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = speaking_view("llama")
    wanted = evaluate(view, tasks, PLANS, manner=SMALL, progress=False)
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
        evaluate(view, tasks, PLANS, out=tmp_path, manner=SMALL, progress=False)
    for name in ("answers.jsonl", "results.jsonl"):  # a line that was cut short
        if (tmp_path / name).exists():
            with (tmp_path / name).open("a") as file:
                file.write('{"key": "half')
    limit = -1
    found = evaluate(view, tasks, PLANS, out=tmp_path, manner=SMALL, progress=False)
    close(found, wanted)
    assert len(added) == len(set(added)) > 8
    again = evaluate(view, tasks, PLANS, out=tmp_path, manner=SMALL, progress=False)
    assert told(again) == told(found)
    assert len(added) == len(set(added))
    assert not (tmp_path / "answers.jsonl").exists()


def test_an_edit_that_selects_nothing_is_refused_again(data: Path, tmp_path: Path) -> None:
    nowhere = edits.zero("ffn_out", layers=0, positions=[5000])
    view, manner = speaking_view("rwkv4").using(edits=nowhere), Manner(max_length=900)
    for name in ("arc_easy", "gsm8k"):
        task = open_task(name, data=data, limit=1)
        for _ in range(2):  # the second time all answers are known
            with pytest.raises(EditError, match="selected nothing"):
                evaluate(view, [task], PLANS, out=tmp_path, manner=manner, progress=False)


def test_results_belong_to_weights_plan_edits_and_encoding(
    tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, task = speaking_view("llama"), tasks[:1]
    first = evaluate(view, task, out=tmp_path, progress=False)
    for other, manner in (
        (speaking_view("llama", seed=1), None),
        (view.using(edits=edits.scale("ffn_out", 0.5)), None),
        (view.using(plan="0, 2"), None),
        (view, Manner(max_length=30)),
    ):
        (found,) = evaluate(other, task, out=tmp_path, manner=manner, progress=False)
        assert found.answers != first[0].answers
    monkeypatch.setattr(module, "read", None)  # from here on everything is known
    (known,) = evaluate(view, task, out=tmp_path, progress=False)
    assert told([known]) == told(first)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 5


def test_whole_texts_are_kept_too(data: Path, tmp_path: Path) -> None:
    view = speaking_view("rwkv4", eos=(3,))
    task = open_task("wikitext", data=data, limit=3)
    (whole,) = evaluate(view, [task], out=tmp_path, progress=False)
    (known,) = evaluate(view, [task], out=tmp_path, progress=False)
    assert told([known]) == told([whole])
    assert set(whole.metrics) == {
        "word_perplexity,none",
        "byte_perplexity,none",
        "bits_per_byte,none",
    }
    assert not whole.higher_is_better


def test_equal_prompts_are_written_once_and_every_plan_writes_its_own(data: Path) -> None:
    from laminogram.evaluate.requests import Request, Requests

    view = speaking_view("gpt_neox")
    items = [
        Request("generate_until", text, until=("q",), max_new_tokens=5, document=i)
        for i, text in enumerate(("the boat", "the boat", "a", "shore the"))
    ]
    found = answer(view, Requests("t", "1", tuple(items)), PLANS)
    for plan, texts in zip(PLANS, found, strict=True):
        assert texts[0] == texts[1]
        for request, text in zip(items, texts, strict=True):
            alone = view.using(plan=plan).generate(request.context, max_new_tokens=5)
            whole = view.needed_tokenizer().decode(alone.tokens)
            assert text == whole.split("q")[0]


def test_what_cannot_be_asked_says_so(tasks: list[Task], tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match="encoder"):
        evaluate(view_of("bert"), tasks)
    with pytest.raises(PlanError, match="layer 7"):
        evaluate(speaking_view("llama"), tasks, ["0, 7"])
    (tmp_path / "results.jsonl").write_text("[1, 2]\n")
    with pytest.raises(StoreError):
        evaluate(speaking_view("llama"), tasks, out=tmp_path)
    (tmp_path / "results.jsonl").write_text("no JSON\n")
    with pytest.raises(StoreError, match="line 1"):
        evaluate(speaking_view("llama"), tasks, out=tmp_path)
