"""A study under a plan: steps told apart, the plan in the page, the tables and the manifest."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from laminogram.errors import PlanError
from laminogram.report.page_data import study_payload
from laminogram.report.study import run_study, write_study
from laminogram.studies.study import Study, study_models

TEXT = "The river ran down to the sea."


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("plan") / "report"
    plan = "0-2, 2, mean(4 | 5)"
    index = run_study(["tiny-llama", "tiny-rwkv4"], TEXT, out=out, plan=plan, progress=False)
    return index.parent


def test_steps_are_told_apart_in_every_table(written):
    expected = [(0, 0), (1, 1), (2, 2), (3, 2), (4, 4), (5, 5)]
    for name in ("eeg-tiny-llama", "eeg-tiny-rwkv4", "statistics"):
        table = pq.read_table(written / "data" / f"{name}.parquet").to_pylist()
        assert sorted({(row["step"], row["layer"]) for row in table}) == expected


def test_the_manifest_names_the_plan_of_every_model(written):
    manifest = json.loads((written / "manifest.json").read_text())
    assert [model["plan"] for model in manifest["models"]] == ["0-1, 2x(2), mean(4-5)"] * 2
    assert [model["kv"] for model in manifest["models"]] == ["exact"] * 2


def test_the_page_shows_the_plan_and_names_repeated_layers_by_step(written, browser):
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((written / "index.html").as_uri())
    page.wait_for_selector("html[data-ready]", timeout=30_000)
    cards = page.locator(".card .plan")
    assert cards.count() == 2
    assert "0-1, 2x(2), mean(4-5)" in cards.first.inner_text()
    assert "6 layer calls, depth 5, 6 cache slots" in cards.first.inner_text()
    picture = cards.first.locator("svg")
    assert picture.get_attribute("aria-label") == "Plan: 0-1, 2x(2), mean(4-5)"
    assert picture.bounding_box()["width"] > 100
    rows = page.locator("#tables table").first.locator("tbody th")
    found = rows.evaluate_all("nodes => nodes.map(node => node.textContent)")
    assert found == ["0", "1", "2 (step 2)", "2 (step 3)", "4", "5"]
    assert "layer@step" in page.locator("main").inner_text()
    assert complaints == []
    page.close()


def test_the_full_stack_has_no_picture(synthetic):
    study = synthetic.fake_study()
    assert [model["plan"] for model in study_payload(study)["models"]] == [None, None]


def test_the_way_of_remembering_is_named_where_it_is_not_the_exact_one(synthetic):
    one = synthetic.fake_record("a", "llama", "a b")
    plan = {**one.manifest, "plan": "0, mean(1-5)", "kv": "averaged"}
    study = Study.of([replace(one, manifest=plan)], "a b")
    assert "averaged" in study_payload(study)["models"][0]["plan"]["cost"]


def test_a_plan_in_a_page_is_text(synthetic, tmp_path):
    one = synthetic.fake_record("a", "llama", "a b")
    study = Study.of([replace(one, manifest={**one.manifest, "plan": "0-2, 5"})], "a b")
    page = write_study(study, tmp_path / "out").read_text(encoding="utf-8")
    assert "<svg xmlns" not in page  # inside the payload, where it cannot be read as markup


def test_a_plan_that_does_not_fit_is_refused_before_any_model_runs(synthetic, tmp_path):
    class Shallow(synthetic.FakeView):
        def using(self, plan):
            raise PlanError(f"step 3 of the plan {plan} runs layer 5")

    class Deep(synthetic.FakeView):
        def using(self, plan):
            return self

        def record(self, *_, **__):
            pytest.fail("a model ran")

    with pytest.raises(PlanError, match=r"^shallow: step 3"):
        run_study([Deep("deep"), Shallow("shallow")], TEXT, out=tmp_path / "out", plan="0-5")
    assert not (tmp_path / "out").exists()


def test_conditions_reach_the_view(synthetic):
    asked = {}

    class View(synthetic.FakeView):
        def using(self, **conditions):
            asked.update(conditions)
            return self

    study_models([View()], text="a b", plan="0-5", kv="averaged", progress=False)
    assert asked == {"plan": "0-5", "kv": "averaged"}
