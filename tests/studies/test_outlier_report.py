"""The report on outliers: its parts, what is kept after a kill, and its page in a browser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tests.outliers.planted import large_channel, plain
from tests.stacks import ids_of, view_of

from laminogram.errors import ConfigError
from laminogram.report.charts import charts_picture, grid
from laminogram.report.gallery import write_pictures
from laminogram.report.notebook import fragment
from laminogram.report.pictures.outliers import pictures
from laminogram.report.terminal import print_result
from laminogram.studies.outlier_report import OutlierReport, Settings, outlier_report
from laminogram.studies.outlier_report import parts as made
from laminogram.studies.outlier_report.parts import targets_of
from laminogram.studies.outlier_report.settings import Views, inputs_of
from laminogram.studies.outlier_report.work import Work

ROWS = [ids_of(1, n, seed=n)[0].tolist() for n in (12, 10, 11)]
SETTINGS = Settings(
    precisions=("fp32", "int8"),
    edits=("zero",),
    definitions=("massive_activations", "massive_tokens", "six_sigma_channels", "dispersion"),
    draws=2,
    operated=2,
    replicates=8,
    seeds=1,
    new_tokens=2,
)


def run(work: Path, settings: Settings = SETTINGS, **options) -> OutlierReport:
    view = view_of("llama")
    return outlier_report([view], ROWS, settings, work=work, progress=False, **options)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> OutlierReport:
    return run(tmp_path_factory.mktemp("made"))


def test_every_part_of_every_precision_is_there(report: OutlierReport) -> None:
    kinds = [(part.kind, part.precision) for part in report.parts]
    assert kinds == [
        ("verdicts", "fp32"),
        ("channels", "fp32"),
        ("verdicts", "int8"),
        ("channels", "int8"),
        ("precision", "int8"),
        ("operations", "fp32"),
    ]
    tables = report.tables()
    for name, table in tables.items():
        assert len({len(column) for column in table.values()}) == 1, name
    assert set(tables["outliers-verdicts"]["definition"]) == set(SETTINGS.definitions)
    assert tables["operations"]["role"].count("random") == 2 * tables["operations"]["role"].count(
        "outliers"
    )
    assert report.costs[0].documents == 3 and report.costs[0].forwards > 0
    assert "about" in str(report.costs[0]) and "3 documents (33 tokens)" in str(report.costs[0])


def test_the_largest_channels_are_those_of_the_tensor(report: OutlierReport) -> None:
    view = view_of("llama").using(precision="fp32")
    grams = [view.record([row], sites=["resid_post"]) for row in ROWS]
    states = [gram.tensor("resid_post", 2)[0].numpy() for gram in grams]
    x = np.abs(np.concatenate(states)).max(0)
    part = report.of("channels")[0]
    table = part.tables["outliers-channels"]
    first = next(
        i
        for i, key in enumerate(zip(table["site"], table["layer"], table["rank"], strict=True))
        if key == ("resid_post", 2, 1)
    )
    assert table["channel"][first] == int(x.argmax())
    assert table["absmax"][first] == pytest.approx(float(x.max()))
    assert table["ratio"][first] == pytest.approx(float(x.max() / np.median(x)), rel=1e-6)


def test_a_kill_loses_no_finished_part(tmp_path: Path, monkeypatch, report: OutlierReport) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(made, "precision_tables", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, replace(SETTINGS, edits=()))
    finished = sorted(tmp_path.glob("*.json"))
    assert len(finished) == 4 and not list(tmp_path.glob(".*"))
    finished[0].write_text("{ torn", encoding="utf-8")
    stamps = {path: path.stat().st_mtime_ns for path in finished[1:]}
    lines: list[str] = []
    again = run(tmp_path, replace(SETTINGS, edits=()), say=lines.append)
    assert [part.kept for part in again.parts].count(True) == 3
    assert any("3 of 5 parts were finished before" in line for line in lines)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert json.dumps(again.tables()["outliers-verdicts"]) == json.dumps(
        report.tables()["outliers-verdicts"]
    )


def test_a_part_is_of_its_key_alone(tmp_path: Path) -> None:
    work = Work(tmp_path)
    where = ("m", "fp32", "text")
    table = {"t": {"b": [None, (1, 2)], "a": np.array([1.0, np.nan])}}
    first = work.part("kind", where, {"weights": 1}, lambda: table)
    same = Work(tmp_path).part("kind", where, {"weights": 1}, lambda: pytest.fail("made again"))
    assert not first.kept and same.kept
    expected = "{'t': {'b': [None, '[1, 2]'], 'a': [1.0, nan]}}"
    assert repr(first.tables) == repr(same.tables) == expected
    assert not work.part("kind", where, {"weights": 2}, lambda: table).kept
    assert not work.part("other", where, {"weights": 1}, lambda: table).kept


def test_targets_are_what_the_definitions_find_and_else_are_named_so() -> None:
    (stand_in,) = targets_of(plain(), ROWS)
    assert stand_in.name == "largest channel" and len(stand_in.channels) == 1
    view = plain()
    with_outlier = view.using(edits=[large_channel().edits[0]])
    assert targets_of(with_outlier, ROWS)


def test_an_encoder_has_no_predictions_and_says_so() -> None:
    said: list[str] = []
    settings = Settings(definitions=("six_sigma_channels",), replicates=4)
    found = outlier_report([view_of("bert")], ROWS, settings, say=said.append, progress=False)
    assert {part.kind for part in found.parts} == {"verdicts", "channels"}
    assert found.notes and any("predicts no next token" in line for line in said)


def test_inputs_and_precisions_are_what_they_are_called() -> None:
    view = view_of("llama")
    assert inputs_of(view, ROWS, None) == {"ids": ROWS}
    views = Views(view, ("bf16", "int8", "fp32"))
    assert [views[name].precision for name in views.names] == ["bfloat16", "bf16+int8", "float32"]
    assert Views(view, ()).first is view
    with pytest.raises(ConfigError, match="'erase'"):
        Settings(edits=("erase",))
    with pytest.raises(ConfigError, match="no definition 'size'"):
        Settings(definitions=("size",))
    with pytest.raises(ConfigError, match="twice"):
        Settings(precisions=("int8", "int8"))
    with pytest.raises(ConfigError, match="no document"):
        inputs_of(view, [], None)


def test_the_text_has_every_part_with_its_caution(report: OutlierReport) -> None:
    console = Console(width=10_000, color_system=None, record=True, file=None, quiet=False)
    with console.capture() as captured:
        print_result(report, console)
    text = captured.get()
    titles = [line for line in text.splitlines() if line.endswith("(llama)")]
    assert [title.rpartition(" (")[0] for title in titles] == [
        "What every definition says",
        "Dispersion by layer",
        "The largest channels",
        "Precisions",
        "Operations on outliers: ids",
    ]
    assert "massive_activations" in text and "nothing here need hold for large models" in text
    assert "<iframe" in fragment(report)


def test_the_page_opens_without_a_complaint(report: OutlierReport, browser, tmp_path) -> None:
    index = write_pictures(pictures(report), tmp_path / "page", {"kind": "outliers"})
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(index.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=30_000)
    assert complaints == []
    assert page.locator("section.picture").count() == 5
    assert page.locator("section.picture canvas").count() >= 9
    assert "yes" not in page.locator("#problem").text_content()
    page.close()
    manifest = json.loads((index.parent / "manifest.json").read_text("utf-8"))
    assert all(one["files"] for one in manifest["pictures"])


def test_a_grid_has_a_place_for_every_cell() -> None:
    made_grid = grid("c", ["a", "b", "c"], [["x", 1, 2]], [[0.5, None]])
    assert made_grid["places"] == [[0.5, None]] and made_grid["rows"] == [["x", "1", "2"]]
    tables = {"n": {"v": [1.0, float("nan")]}}
    drawn = charts_picture("outliers", "t", "m", "c", "a", tables, manifest={})
    assert drawn.csv == [["v"], [1.0], [None]]
