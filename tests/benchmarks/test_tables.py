"""The tables of speed: ratios of pairs, targets, and a page that is made from the results."""

from __future__ import annotations

import json

import pytest
from benchmarks import growth, page
from benchmarks.lab import LIMIT, Result, Target, lines
from benchmarks.timing import Times

from laminogram.plans.tree import PlanTree


def made(**more) -> Result:
    times = Times({"laminogram": [1.0, 4.0, 2.0], "peer": [2.0, 4.0, 8.0]})
    return Result(times, work=(8, "tok"), limit=0.5, limit_is="its bytes", **more)


def test_a_ratio_is_the_median_of_the_pairs_and_not_of_the_sides():
    assert made().ratio("peer") == 0.5  # of 0.5, 1 and 0.25; medians alone give 2 / 4 too
    assert Times({"a": [1.0, 9.0, 5.0], "b": [1.0, 3.0, 10.0]}).ratio("a", "b") == 1.0
    assert made().ratio(LIMIT) == 4.0


def test_a_row_without_a_limit_has_no_ratio_to_it():
    with pytest.raises(KeyError, match="no limit"):
        Result(Times({"laminogram": [1.0]})).ratio(LIMIT)


def test_the_terminal_says_which_target_is_met():
    shown = "\n".join(lines("row", made(targets=(Target("peer", 0.6), Target(LIMIT, 1.5)))))
    assert "target 0.600  met" in shown
    assert "target 1.500  NOT met" in shown


def test_a_table_is_replaced_between_its_marks_and_nowhere_else():
    record = made(targets=(Target("peer", 0.6), Target(LIMIT, 1.5)), notes={"peak GB": 3}).record()
    about = {"machine": "M", "threads": 2, "python": "3", "versions": {"torch": "2"}, "date": "d"}
    results = {"gpu": {"about": about, "rows": {"one": record}, "skipped": {"two": "no fla"}}}
    results = json.loads(json.dumps(results))  # what a file keeps of it
    text = "before\n<!-- table: gpu -->\nold\n<!-- end -->\nafter"
    once = page.filled(text, results)
    assert once.startswith("before\n<!-- table: gpu -->\nM, 2 threads; Python 3, torch 2; d.")
    assert once.endswith("Not run here: two: no fla.\n<!-- end -->\nafter")
    assert "| one | laminogram | 2000.0 | 4 tok/s |" in once
    assert "| 0.50 | 0.38 to 0.75 | 0.60 |" in once
    assert "**1.50, missed**" in once
    assert "| | peak GB: 3 |" in once
    assert page.filled(once, results) == once


def test_growth_has_a_line_for_each_table_and_the_factor_to_the_size_before():
    about = {"machine": "M", "threads": None, "python": "3", "versions": {}, "date": "d"}
    common = {"by": "plans", "sizes": [1, 2, 4]}
    tables = [
        {"what": "sweep", "median_s": [0.02, 0.03, 0.09], "layer_calls": [12, 18, 27], **common},
        {"what": "token", "median_s": [0.001, 0.001], "layer_calls": None}
        | {"by": "context", "sizes": [512, 1024]},
    ]
    text = page.filled(
        "<!-- table: growth-cpu -->\n<!-- end -->",
        {"growth-cpu": {"about": about, "tables": tables}},
    )
    assert "| ms | sizes | first | x 2 | x 4 |" in text
    assert "| sweep | plans: 1 to 4 | 20.0 | 30.0 (1.50) | 90.0 (3.00) |" in text
    assert "| its layer calls |  | 12 | 18 (1.50) | 27 (1.50) |" in text
    assert "| token | context: 512 to 1,024 | 1.000 | 1.000 (1.00) |  |" in text


def test_a_batch_before_the_first_of_many_does_not_count():
    case = growth.Case(8, lambda: None, 4, begin=lambda: None)
    rounds = growth.seconds_of([case, growth.Case(16, lambda: None)], 3, warmup=1)
    assert list(rounds) == [8, 16] and all(len(times) == 3 for times in rounds.values())
    assert all(times < 1e-3 for times in rounds[8])


def test_random_plans_differ_and_every_list_holds_the_one_before():
    plans = growth._random_plans(16)
    assert len(set(plans)) == 16 and growth._random_plans(4) == plans[:4]
    assert {len(plan) for plan in plans} == {growth.PLAN_LAYERS}
    assert PlanTree(plans).calls < 16 * growth.PLAN_LAYERS


def test_the_page_shows_what_the_results_say():
    results = {path.stem: json.loads(path.read_text()) for path in page.RESULTS.glob("*.json")}
    text = page.PAGE.read_text(encoding="utf-8")
    pairs = zip(page.filled(text, results).splitlines(), text.splitlines())
    changed = [line for line, kept in pairs if line != kept]
    assert not changed, "make it anew: python -m benchmarks.page"
    assert page.filled(text, results) == text
