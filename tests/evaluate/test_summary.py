from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from laminogram.errors import ConfigError
from laminogram.evaluate.result import TaskResult, resampled
from laminogram.evaluate.summary import summarise
from laminogram.probe.statistics.bootstrap import REPLICATES, variant_weights

DOCUMENTS, DRAWS = 400, 100
WEIGHTS = variant_weights(torch.arange(DOCUMENTS), DRAWS).numpy()


def mean(items: Any) -> float:
    return sum(items) / len(items)


def result(task: str, plan: str, right: int, chance: float = 0.25, **changes: Any) -> TaskResult:
    """`right` of 400 documents answered; the first ones."""
    values = np.arange(DOCUMENTS) < right
    draws = resampled(values.astype(float).tolist(), mean, WEIGHTS)
    fields: dict[str, Any] = {
        "task": task,
        "version": "1",
        "requests_hash": "",
        "documents": DOCUMENTS,
        "plan": plan,
        "conditions": {},
        "main_metric": "acc",
        "higher_is_better": True,
        "chance": chance,
        "standard_error": float(values.std(ddof=1) / math.sqrt(DOCUMENTS)),
        "metrics": {"acc,none": right / DOCUMENTS},
        "intervals": {"acc,none": (0.0, 1.0)},
        "values": {"acc,none": values.tolist()},
        "answers": [],
        "draws": draws.tolist(),
        "seconds_per_token": 1e-3,
    }
    return TaskResult(**fields | changes)


def test_scores_lie_between_chance_and_the_full_model() -> None:
    results = [
        *(result("a", plan, right) for plan, right in (("0-3", 300), ("0", 200), ("1", 100))),
        *(result("b", plan, right, 0.0) for plan, right in (("0-3", 200), ("0", 200), ("1", 0))),
        *(result("c", plan, right, 0.0) for plan, right in (("0-3", 400), ("0", 40), ("1", 20))),
    ]
    lines = {line.label: line for line in summarise(results, "0-3").lines}
    assert lines["0-3"].median is not None
    assert lines["0-3"].median.value == lines["0-3"].median.low == lines["0-3"].median.high == 1
    shares = {task: share.value for task, share in lines["0"].shares.items()}
    assert shares == pytest.approx({"a": 0.5, "b": 1.0, "c": 0.1})
    assert lines["0"].median is not None and lines["0"].median.value == pytest.approx(0.5)
    assert lines["0"].shares["a"].low < 0.5 < lines["0"].shares["a"].high
    # Documents are drawn alike: where a plan answers as the full model, nothing varies.
    assert lines["0"].shares["b"].low == lines["0"].shares["b"].high == 1
    assert lines["1"].shares["a"].value == pytest.approx(0)


@pytest.mark.parametrize(("right", "kept"), [(100, False), (120, False), (200, True), (400, True)])
def test_a_task_at_chance_takes_no_part_and_is_named(right: int, kept: bool) -> None:
    results = [result(task, "0-3", r) for task, r in (("a", 300), ("b", right))]
    summary = summarise(results, "0-3")
    assert set(summary.lines[0].shares) == ({"a", "b"} if kept else {"a"})
    assert [one.task for one in summary.at_chance] == ([] if kept else ["b"])
    if not kept:
        assert "at chance" in str(summary.at_chance[0])


def test_never_right_is_at_chance_though_its_error_is_zero() -> None:
    summary = summarise([result("a", "0-3", 0, 0.0)], "0-3")
    assert summary.at_chance and summary.lines[0].median is None


def test_seeds_are_averaged() -> None:
    results = [
        result("a", plan, right, 0.0)
        for plan, right in (("0-3", 400), ("2, 1", 100), ("1, 2", 300))
    ]
    summary = summarise(results, "0-3", {"full": ["0-3"], "random": ["2, 1", "1, 2"]})
    full, random = summary.lines
    assert (full.label, random.label) == ("full", "random")
    assert random.median is not None and random.median.value == pytest.approx(0.5)
    assert random.scores == {"a": 0.5}


def test_lower_is_better_is_left_out_and_a_missing_plan_is_an_error() -> None:
    results = [result("a", "0-3", 300), result("ppl", "0-3", 300, higher_is_better=False)]
    summary = summarise(results, "0-3")
    assert summary.not_normalised == ("ppl",)
    assert set(summary.lines[0].shares) == {"a"}
    with pytest.raises(ConfigError, match="no result for plan 0-1"):
        summarise(results, "0-3", {"x": ["0-1"]})


def test_a_summary_prints_as_a_table() -> None:
    results = [result("a", "0-3", 300), result("a", "0-2", 200), result("b", "0-3", 100)]
    results.append(result("b", "0-2", 100))
    head, full, cut, note = str(summarise(results, "0-3")).splitlines()
    assert head.split() == ["plan", "median", "share", "a", "b"]
    assert full.startswith("0-3   1.000 [1.000, 1.000]") and full.split()[-2:] == ["0.75", "0.25"]
    assert cut.startswith("0-2   0.500 [") and cut.split()[-2:] == ["0.5", "0.25"]
    assert note.startswith("b: at chance")


def test_resampling_a_mean_equals_repeating_documents() -> None:
    draw = np.random.default_rng(0)
    items = draw.random(DOCUMENTS).tolist()

    def other(drawn: Any) -> float:  # not recognised as a mean, so documents are repeated
        return mean(drawn)

    fast, slow = resampled(items, mean, WEIGHTS), resampled(items, other, WEIGHTS)
    np.testing.assert_allclose(fast[REPLICATES], slow[REPLICATES], rtol=1e-12)
    assert fast[0] == slow[0] == mean(items)
    spread = fast[REPLICATES].std()
    assert spread == pytest.approx(np.std(items, ddof=1) / math.sqrt(DOCUMENTS), rel=0.3)


def test_results_survive_a_file() -> None:
    one = result("a", "0-3", 300)
    again = TaskResult.from_json(json.loads(json.dumps(one.to_json())))
    assert again.metrics == one.metrics and again.score == one.score
    np.testing.assert_array_equal(again.draws, one.draws)
    single = result("a", "0-3", 300, standard_error=math.inf)
    assert TaskResult.from_json(single.to_json()).standard_error == math.inf
    assert [note.task for note in summarise([single], "0-3").at_chance] == ["a"]
