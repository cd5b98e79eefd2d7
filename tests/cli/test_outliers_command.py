"""`laminogram outliers`: cost first, parts kept, a report; or one line that says what is wrong."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from laminogram.cli.main import cli

FAST = [
    "--documents",
    "2",
    "--letters",
    "60",
    "--edits",
    "none",
    "--no-bos",
    "--definitions",
    "dispersion,six_sigma_channels",
]


def run(*arguments: str):
    return CliRunner().invoke(cli, ["outliers", *arguments])


def test_it_says_its_cost_keeps_its_parts_and_writes_a_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("tiny-llama", *FAST, "--out", str(out))
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str((out / "report" / "index.html").resolve())
    assert result.stderr.startswith("tiny-llama: 2 documents")
    assert len(list((out / "work").glob("*.json"))) == 2
    manifest = json.loads((out / "report" / "manifest.json").read_text("utf-8"))
    assert manifest["kind"] == "laminogram outliers"


def test_what_is_wrong_is_one_line_before_a_model_runs(tmp_path: Path) -> None:
    wrong = run("tiny-llama", "--edits", "erase", "--out", str(tmp_path / "x"))
    assert wrong.exit_code == 1 and "'erase'" in wrong.stderr
    unknown = run("tiny-llama", "--precisions", "int99", "--out", str(tmp_path / "x"))
    assert unknown.exit_code == 1 and "int99" in unknown.stderr
    assert not (tmp_path / "x").exists()


def test_who_stops_it_is_told_where_it_goes_on(tmp_path: Path, monkeypatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("laminogram.studies.outlier_report.outlier_report", stopped)
    result = run("tiny-llama", *FAST, "--out", str(tmp_path / "out"))
    assert result.exit_code == 1 and "the same command goes on" in result.stderr
    assert str(tmp_path / "out") in result.stderr


@contextmanager
def started(out: Path) -> Iterator[subprocess.Popen[str]]:
    """The command as a process of its own, which does not outlive the test."""
    command = [sys.executable, "-m", "laminogram", "outliers", "tiny-llama", "--text-only"]
    command += ["--precisions", "fp32,int8", "--edits", "zero", "--draws", "2", "--no-bos"]
    command += ["--definitions", "dispersion,massive_activations", "--letters", "60"]
    command += ["--documents", "2", "--out", str(out)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def finished_parts(out: Path) -> dict[str, Any]:
    files = sorted((out / "work").glob("*.json"))
    return {file.name: json.loads(file.read_text("utf-8"))["tables"] for file in files}


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed twice between its parts, the run ends with what one that nobody killed gives."""
    out, known = tmp_path / "killed", 0
    for more in (1, 2):
        with started(out) as process:
            deadline = time.monotonic() + 240
            while process.poll() is None and time.monotonic() < deadline:
                if len(list((out / "work").glob("*.json"))) >= known + more:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.01)
            _, said = process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL, said
        known = len(finished_parts(out))
    said = {}
    for folder in (out, tmp_path / "whole"):
        with started(folder) as process:
            _, said[folder.name] = process.communicate(timeout=240)
            assert process.returncode == 0, said
    found = re.search(r"(\d+) of (\d+) parts were finished before", said["killed"])
    assert found is not None and int(found[1]) == known < int(found[2])
    assert "finished before" not in said["whole"]
    parts = finished_parts(out)
    assert len(parts) == int(found[2]) and not list((out / "work").glob(".*"))
    assert repr(parts) == repr(finished_parts(tmp_path / "whole"))
