"""Tables: plain where no person looks, drawn where one does, with the same words."""

from __future__ import annotations

import sys

import pytest

from laminogram.cli.tables import format_plain, print_table

ROWS = [("q", "B T H D", "queries [after rotary]"), ("resid_post", "B T C", "x" * 120)]


def test_plain_text_is_aligned_and_never_wrapped() -> None:
    lines = format_plain(("site", "axes", "meaning"), ROWS).splitlines()
    assert lines == [
        "site        axes     meaning",
        "q           B T H D  queries [after rotary]",
        f"resid_post  B T C    {'x' * 120}",
    ]


def test_no_rows_is_a_header() -> None:
    assert format_plain(("a", "b"), []) == "a  b"


def test_output_that_is_no_terminal_has_no_escape_codes(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("site", "axes", "meaning"), ROWS, title="sites")
    assert "\x1b" not in capsys.readouterr().out


def test_a_terminal_gets_a_drawn_table_with_brackets_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(("site", "axes", "meaning"), ROWS[:1], title="sites of m")
    text = capsys.readouterr().out
    assert "sites of m" in text
    assert "queries [after rotary]" in text
