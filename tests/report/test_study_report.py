"""The report's folder: whole or absent, never over another, with every number beside the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from laminogram.errors import ConfigError, LaminogramError
from laminogram.report import study as report
from laminogram.report.folder import free_folder, new_folder
from laminogram.report.study import run_study, write_study
from laminogram.report.tables import slug, write_table


@pytest.fixture(scope="module")
def written(synthetic, tmp_path_factory) -> tuple[Path, object]:
    study = synthetic.fake_study()
    return write_study(study, tmp_path_factory.mktemp("report") / "out").parent, study


def test_the_folder_holds_the_page_the_manifest_and_both_forms_of_every_table(written):
    folder, _ = written
    assert sorted(p.name for p in folder.iterdir()) == ["data", "index.html", "manifest.json"]
    stems = {p.stem for p in (folder / "data").iterdir()}
    assert stems == {
        "cards", "eeg-tiny-llama", "eeg-tiny-rwkv4", "peaks", "statistics", "tokens"
    }  # fmt: skip
    for stem in stems:
        assert (folder / "data" / f"{stem}.parquet").is_file()
        assert (folder / "data" / f"{stem}.npz").is_file()


def test_the_eeg_tables_hold_every_value(written):
    folder, study = written
    record = study.records[1]
    table = pq.read_table(folder / "data" / "eeg-tiny-rwkv4.parquet")
    assert table.num_rows == record.values.shape[0] * record.values.shape[1]
    flat = np.array(table["ffn_out"].combine_chunks().flatten())
    assert np.array_equal(flat.reshape(record.values.shape), record.values)
    with np.load(folder / "data" / "eeg-tiny-rwkv4.npz") as arrays:
        assert np.array_equal(arrays["ffn_out"].reshape(record.values.shape), record.values)
        assert arrays["layer"][-1] == 5


def test_the_statistics_table_tells_the_first_token_apart(written):
    folder, study = written
    table = pq.read_table(folder / "data" / "statistics.parquet").to_pylist()
    assert {row["tokens"] for row in table} == {"all", "rest", "first"}
    row = next(r for r in table if r["tokens"] == "rest" and r["layer"] == 3)
    assert row["rms"] == study.records[0].statistics["rest"]["rms"][3]


def test_the_manifest_tells_what_ran_and_hashes_every_file(written):
    folder, study = written
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["text"] == study.text
    assert [model["name"] for model in manifest["models"]] == ["tiny-llama", "tiny-rwkv4"]
    assert manifest["models"][0]["gram"]["weights_hash"] == "made-up-1"
    assert set(manifest["files"]) == {f"data/{p.name}" for p in (folder / "data").iterdir()}
    assert set(manifest["versions"]) >= {"python", "laminogram", "torch", "numpy"}


def test_a_folder_that_exists_is_refused_before_any_model_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "study_models", lambda *a, **k: pytest.fail("a model ran"))
    with pytest.raises(LaminogramError, match="exists already"):
        run_study([], out=tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(LaminogramError, match="exists already"):
        run_study([], out=tmp_path / "dangling")


def test_a_failure_half_way_leaves_nothing(synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "study_page", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_study(synthetic.fake_study(same_tokens=True), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error(tmp_path):
    with pytest.raises(LaminogramError, match="No space left"), new_folder(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path):
    with pytest.raises(LaminogramError, match="exists already"), new_folder(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_default_folder_takes_a_new_name(synthetic, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [run_study([synthetic.FakeView()], "one two three").parent.name for _ in range(3)]
    assert names == ["laminogram-study", "laminogram-study-2", "laminogram-study-3"]
    assert free_folder(tmp_path / "fresh") == tmp_path / "fresh"


def test_a_run_writes_where_it_was_told_in_folders_that_it_makes(synthetic, tmp_path):
    index = run_study([synthetic.FakeView()], "one two", out=tmp_path / "a" / "b", new_tokens=2)
    assert index == tmp_path / "a" / "b" / "index.html"
    rows = pq.read_table(index.parent / "data" / "tokens.parquet").to_pylist()
    assert [row["generated"] for row in rows] == [False, False, True, True]
    assert rows[1]["loss_nats"] == pytest.approx(2.0)
    assert rows[0]["loss_nats"] is None


def test_a_text_that_cannot_be_studied_writes_nothing(tmp_path):
    for options in ({"prompt": "  "}, {"prompt": "a", "text_file": "b"}):
        with pytest.raises(ConfigError):
            run_study(out=tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny-llama", "tiny-llama"),
        ("../../etc", "etc"),
        ("org/name v2", "org-name-v2"),
        ("é", "model"),
    ],
)
def test_file_names_are_plain(name, expected):
    assert slug(name) == expected


def test_models_whose_names_give_one_file_name_do_not_share_a_file(synthetic, tmp_path):
    from laminogram.report.tables import write_study_tables
    from laminogram.studies.study import Study

    records = [synthetic.fake_record(name, "llama", "a b") for name in ("a/b", "a b")]
    files = write_study_tables(Study.of(records, "a b"), tmp_path)
    assert len(set(files["eeg"])) == 4


def test_tables_keep_nulls_and_odd_text(tmp_path):
    write_table(tmp_path, "t", {"a": [1.5, None], "b": ["\ud800x", None]})
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [
        {"a": 1.5, "b": "?x"},
        {"a": None, "b": None},
    ]


def test_an_earlier_report_is_replaced_where_that_is_asked_for(synthetic, tmp_path):
    study = synthetic.fake_study(same_tokens=True)
    index = write_study(study, tmp_path / "out")
    index.write_text("older", encoding="utf-8")
    with pytest.raises(LaminogramError, match="exists already"):
        write_study(study, tmp_path / "out")
    assert index.read_text("utf-8") == "older"
    assert write_study(study, tmp_path / "out", force=True).read_text("utf-8") != "older"
    (tmp_path / "mine").mkdir()
    with pytest.raises(LaminogramError, match="is no report"):
        run_study([], out=tmp_path / "mine", force=True)
