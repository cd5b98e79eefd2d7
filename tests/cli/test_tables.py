"""Tables: plain where no person looks, drawn where one does, with the same words."""

from __future__ import annotations

import re
import sys

import pytest

from laminogram.cli.tables import fitted, format_plain, print_table

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


def test_a_narrow_terminal_breaks_between_words_and_cuts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    rows = [("step mode equals sequence mode", "held", "6.9e-03", "rows of 23, 11, 21 tokens")]
    for width in (120, 60, 40, 20):
        monkeypatch.setenv("COLUMNS", str(width))
        print_table(("check", "verdict", "value", "note"), rows)
        text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
        assert "…" not in text and "6.9e-03" in text and "sequence" in text
        assert max(map(len, text.splitlines())) <= max(width, 48)


def test_the_widest_column_gives_way_first() -> None:
    lines = [("name", "one two three four five six"), ("longer-name", "1 2")]
    assert fitted(lines, 100) == [11, 27]
    assert fitted(lines, 30) == [11, 19]
    assert fitted(lines, 5) == [11, 5]
