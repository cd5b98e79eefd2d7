"""What the README shows is run: its Python as it stands, its commands against the command line."""

import re
import shlex
from pathlib import Path

import click
import pytest

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")


def commands() -> list[str]:
    found = re.findall(r"^ {4}laminogram (.*)$", TEXT, re.MULTILINE)
    return [line.split("#")[0].strip() for line in found]


def test_the_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(block, str(README), "exec"), {})
    assert (tmp_path / "river.safetensors").is_file()
    assert "2,516,000" in capsys.readouterr().out


@pytest.mark.parametrize("line", commands())
def test_every_command_is_one(line, tmp_path, monkeypatch):
    from laminogram.cli.main import cli

    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text("Once upon a time.", encoding="utf-8")
    words = shlex.split(line)
    if words == ["--help"]:
        return
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None
    # Parsing checks arguments and options, and runs nothing.
    command.make_context(words[0], words[1:])


def test_every_file_of_the_house_is_there():
    tree = TEXT.split("## The house")[1]
    for name in re.findall(r"`([\w/]+\.py)`", tree):
        assert (README.parent / "src/laminogram" / name).is_file(), name
    for target in re.findall(r"\]\(([\w/.-]+)\)", TEXT):
        assert (README.parent / target).exists(), target
