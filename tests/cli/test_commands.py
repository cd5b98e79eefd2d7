"""Each command hands what was typed to the layers below and prints what comes back.

The layers below are small stand-ins here; their own tests are in their own folders.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import laminogram
from laminogram.cli.main import cli
from laminogram.errors import CheckpointError, EditError, LaminogramError, SiteError


class FakeView:
    """Remembers how it was loaded, which plan it runs, and what it was asked to generate."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.options = options
        self.config = SimpleNamespace(family="llama")
        self.plan: str | None = None
        self.asked: dict[str, Any] = {}

    def using(self, plan: str) -> FakeView:
        self.plan = plan
        return self

    def generate(self, prompt: str, *, stream: Any, **options: Any) -> None:
        self.asked = {"prompt": prompt, **options}
        for text in ("the grey ", "sea – ", "again."):
            stream(text)


@pytest.fixture(autouse=True)
def _any_name_is_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laminogram.checkpoint.resolve.refuse_unknown", lambda name: None)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[FakeView]:
    """Every view that a command loads, in order."""
    views: list[FakeView] = []

    def load(name: str, **options: Any) -> FakeView:
        if name == "nowhere":
            raise CheckpointError("no model 'nowhere':\n  bundled are tiny-llama, tiny-rwkv4")
        views.append(FakeView(name, **options))
        return views[-1]

    monkeypatch.setattr(laminogram, "load", load, raising=False)
    return views


def provide(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """Put a stand-in module with these members in the place of a real one."""
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def run(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(cli, list(arguments), **options)


def test_ls_models(monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"tiny-llama": "a Llama of 2.5 M", "b": "short"}
    larger = {"small-llama": "a Llama of 6 M"}
    provide(monkeypatch, "laminogram.bundled", names=lambda: described, zoo=lambda: larger)
    result = run("ls", "models")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "model        from     what it is",
        "tiny-llama   package  a Llama of 2.5 M",
        "b            package  short",
        "small-llama  zoo      a Llama of 6 M",
    ]


def test_ls_sites(monkeypatch: pytest.MonkeyPatch, loaded: list[FakeView]) -> None:
    row = SimpleNamespace(
        name="ffn_out",
        axes=("B", "T", "C"),
        meaning="what the channel mixer adds [to the residual]",
        access="read, edit",
        availability="all layers",
    )
    axes = {"B": "batch", "T": "tokens", "C": "channels", "V": "vocabulary"}
    provide(monkeypatch, "laminogram.stack.sites", describe=lambda config: [row], AXES=axes)
    result = run("ls", "sites", "tiny-llama")
    assert result.exit_code == 0
    assert result.output.splitlines()[1].split("  ") == [
        "ffn_out",
        "B T C",
        "read, edit",
        "all layers",
        "what the channel mixer adds [to the residual]",
    ]
    assert result.output.splitlines()[-1] == "axes: B batch, T tokens, C channels"
    assert loaded[0].name == "tiny-llama"


def test_generate_streams_and_passes_only_what_was_given(loaded: list[FakeView]) -> None:
    result = run("generate", "tiny-rwkv4", "--prompt", "Out at", "--stop", "a", "--stop", "b")
    assert result.exit_code == 0, result.output
    assert result.stdout == "the grey sea – again.\n"
    assert loaded[0].options == {}
    assert loaded[0].asked == {
        "prompt": "Out at",
        "max_new_tokens": 200,
        "temperature": 0.8,
        "repetition_penalty": 1.0,
        "seed": 0,
        "stop": ("a", "b"),
    }


def test_generate_options_reach_the_model(loaded: list[FakeView]) -> None:
    torch = pytest.importorskip("torch")
    arguments = "--max-new-tokens 3 --temperature 0 --top-k 5 --top-p 0.9 --repetition-penalty 1.2"
    result = run(
        *("generate", "m", "--prompt", "-", "--plan", "0, 1", "--seed", "7"),
        *("--dtype", "bf16", "--device", "cuda:0, cuda:1", *arguments.split()),
        input="from stdin",
    )
    assert result.exit_code == 0, result.output
    view = loaded[0]
    assert view.options == {"dtype": torch.bfloat16, "device": ["cuda:0", "cuda:1"]}
    assert view.plan == "0, 1"
    assert view.asked == {
        "prompt": "from stdin",
        "max_new_tokens": 3,
        "temperature": 0.0,
        "top_k": 5,
        "top_p": 0.9,
        "repetition_penalty": 1.2,
        "seed": 7,
        "stop": (),
    }


@pytest.mark.parametrize(
    "wrong",
    [["--temperature", "-1"], ["--top-k", "0"], ["--top-p", "0"], ["--dtype", "int3"]],
)
def test_values_out_of_range_are_refused_before_loading(
    loaded: list[FakeView], wrong: list[str]
) -> None:
    result = run("generate", "m", "--prompt", "x", *wrong)
    assert result.exit_code == 2
    assert wrong[0] in result.stderr
    assert loaded == []


@pytest.mark.parametrize("ok", [True, False])
def test_doctor_prints_every_row_and_its_verdict_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, loaded: list[FakeView], ok: bool
) -> None:
    def row(name: str, held: bool | None, value: float | None, note: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, held=held, value=value, tolerance=1e-5, note=note)

    rows = [
        row("block equation", True, 2e-7, "12 layers"),
        row("pattern @ v == z", None, None, "no mixer has it"),
        row("batch equals rows", ok, 3e-6, ""),
    ]
    report = SimpleNamespace(rows=rows, ok=ok)
    provide(monkeypatch, "laminogram.studies.doctor", examine=lambda view: report)
    result = run("doctor", "tiny-llama", "--device", "cpu")
    assert result.exit_code == (0 if ok else 1)
    lines = result.stdout.splitlines()
    assert re.split("  +", lines[1]) == [
        "block equation",
        "held",
        "2.0e-07",
        "1.0e-05",
        "12 layers",
    ]
    assert "not asked" in lines[2]
    assert ("BROKEN" in lines[3]) is not ok
    assert ("batch equals rows" in result.stderr) is not ok
    assert loaded[0].options == {"device": "cpu"}


def provide_study(monkeypatch: pytest.MonkeyPatch, index: Path) -> list[dict[str, Any]]:
    """Stand in for `run_study`; the returned list receives how it was called."""
    calls: list[dict[str, Any]] = []

    def run_study(models: list[str], **options: Any) -> Path:
        calls.append({"models": models, **options})
        return index

    provide(monkeypatch, "laminogram.report.study", run_study=run_study)
    return calls


def test_study_without_arguments_leaves_every_default_to_the_study(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = provide_study(monkeypatch, tmp_path / "index.html")
    result = run("study")
    assert result.exit_code == 0, result.output
    assert calls == [{"models": []}]
    assert result.output.strip() == str((tmp_path / "index.html").resolve())


def test_study_passes_models_text_and_place_and_opens_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = provide_study(monkeypatch, tmp_path / "index.html")
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", opened.append)
    text = tmp_path / "text.txt"
    text.write_text("Ein Stück Text", encoding="utf-8")
    result = run("study", "a", "b", "--text-file", str(text), "--out", "new", "--open")
    assert result.exit_code == 0, result.output
    assert calls == [{"models": ["a", "b"], "prompt": "Ein Stück Text", "out": Path("new")}]
    assert opened == [(tmp_path / "index.html").resolve().as_uri()]


def test_study_refuses_two_texts_and_text_that_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = provide_study(monkeypatch, tmp_path / "index.html")
    binary = tmp_path / "binary"
    binary.write_bytes(b"ok\xff")
    both = run("study", "--prompt", "x", "--text-file", str(binary))
    assert both.exit_code == 2
    assert "--prompt and --text-file" in both.stderr
    unreadable = run("study", "--text-file", str(binary))
    assert unreadable.exit_code == 2
    assert "not UTF-8 text (byte 2)" in unreadable.stderr
    assert calls == []


def test_an_error_on_purpose_is_one_line_without_a_traceback(loaded: list[FakeView]) -> None:
    result = run("generate", "nowhere", "--prompt", "x")
    assert result.exit_code == 1
    assert result.stdout == ""
    expected = "Error: no model 'nowhere': bundled are tiny-llama, tiny-rwkv4\n"
    assert result.stderr == expected


def test_debug_keeps_the_traceback(loaded: list[FakeView]) -> None:
    result = run("--debug", "generate", "nowhere", "--prompt", "x")
    assert isinstance(result.exception, CheckpointError)


def test_an_unforeseen_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(laminogram, "load", load, raising=False)
    assert isinstance(run("generate", "m", "--prompt", "x").exception, ZeroDivisionError)


def test_errors_can_be_caught_together_or_as_value_errors() -> None:
    for kind in (CheckpointError, EditError, SiteError):
        assert issubclass(kind, LaminogramError)
        assert issubclass(kind, ValueError)
