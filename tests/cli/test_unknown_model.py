"""What can be no model's name is said at once, before torch is imported."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from laminogram.cli.main import cli


@pytest.mark.parametrize(
    "command", [["study"], ["eeg"], ["ls", "sites"], ["generate", "--prompt=x"], ["lens"]]
)
def test_what_is_no_model_is_said_before_one_is_loaded(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr("laminogram.view.load", lambda *a, **k: loaded.append(a))
    monkeypatch.setattr("laminogram.studies.study.study_models", lambda *a, **k: loaded.append(a))
    result = CliRunner().invoke(cli, [*command, "nosuch"])
    assert result.exit_code == 1 and not loaded
    assert "'nosuch' is no file or directory here, no bundled model" in result.output


@pytest.mark.parametrize(
    ("command", "study"),
    [("doctor", "doctor"), ("paint", "painters"), ("outliers", "outlier_report")],
)
def test_what_is_no_model_is_said_before_its_study_is_imported(
    command: str, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"laminogram.studies.{study}", None)  # importing it now fails
    result = CliRunner().invoke(cli, [command, "nosuch"])
    assert result.exit_code == 1
    assert "'nosuch' is no file or directory here, no bundled model" in result.output
