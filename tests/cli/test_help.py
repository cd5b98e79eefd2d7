"""Help is instant because nothing heavy is imported; the surface of the command line is frozen."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from laminogram.cli.main import cli

PICTURE = {
    *("model", "--prompt", "--text-file", "--with", "--out", "--force", "--text-only", "--open"),
    *("--plan", "--kv", "--dtype", "--device"),
}
# A new command or option is a promise: it is added here on purpose or not at all.
SURFACE = {
    "": {"--version", "--debug"},
    "attention": PICTURE | {"--layers"},
    "compare": {
        *("conditions", "--text-file", "--letters", "--documents", "--sites", "--scale"),
        *("--bos", "--out", "--force", "--text-only", "--open", "--dtype", "--device"),
    },
    "doctor": {"model", "--dtype", "--device"},
    "count": {"config", "--context", "--dtype", "--json"},
    "convert": {
        *("source", "dst", "--to", "--lossy", "--verify", "--dry-run", "--pairs", "--dtype"),
        *("--rescaled", "--shard-size", "--tp", "--pp", "--vpp", "--stages", "--layout"),
        *("--norms", "--vocab-size", "--vocab-padding", "--vocab-divisible-by", "--common"),
        "--iteration",
    },
    "evaluate": {
        *("model", "--tasks", "--data", "--text-file", "--plan", "--limit", "--shots", "--bos"),
        *("--out", "--edit", "--precision", "--kv", "--dtype", "--device"),
    },
    "eeg": {
        *("models", "--prompt", "--text-file", "--site", "--new-tokens", "--precision", "--out"),
        *("--force", "--full", "--frame", "--token", "--fps", "--theme", "--scale", "--plan"),
        *("--kv", "--dtype", "--device", "--text-only"),
    },
    "generate": {
        "model",
        "--prompt",
        "--chat",
        "--max-new-tokens",
        "--temperature",
        "--top-k",
        "--top-p",
        "--repetition-penalty",
        "--seed",
        "--stop",
        "--plan",
        "--kv",
        "--dtype",
        "--device",
    },
    "lens": PICTURE | {"--top", "--follow"},
    "ls": set(),
    "ls families": set(),
    "ls models": set(),
    "ls sites": {"model"},
    "map": PICTURE,
    "massive": PICTURE | {"--site"},
    "next": PICTURE | {"--top", "--temperature"},
    "paint": {
        *("model", "--variants", "--tasks", "--data", "--text-file", "--limit", "--shots"),
        *("--seeds", "--iterations", "--out", "--text-only", "--open", "--kv", "--bos"),
        *("--dtype", "--device"),
    },
    "outliers": {
        *("models", "--precisions", "--edits", "--definitions", "--draws", "--text-file"),
        *("--letters", "--documents", "--bos", "--out", "--text-only", "--open"),
        *("--dtype", "--device"),
    },
    "plan": set(),
    "plan apply": {"model", "plan", "dst", "--copy"},
    "plan build": {
        *("name", "--layers", "--model", "--start", "--affected", "--seed", "--repeats"),
        *("--layer", "--first", "--last", "--i", "--j", "--keep", "--remove"),
    },
    "plan from-mergekit": {"file", "--layers"},
    "plan show": {"plan", "--layers", "--model", "--context", "--html"},
    "plan variants": {"--layers", "--model", "--context", "--start", "--affected"},
    "similarity": PICTURE | {"--also"},
    "study": {
        *("models", "--prompt", "--text-file", "--out", "--open", "--plan", "--kv", "--text-only"),
        *("--force", "--dtype", "--device"),
    },
}

PROBE = """
import json, sys
sys.argv = ["laminogram", *json.loads(sys.argv[1])]
from laminogram.cli.main import main
try:
    main()
finally:
    print("LOADED " + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

HEAVY = {"numpy", "torch", "transformers", "tokenizers", "pyarrow", "PIL", "rich", "tqdm", "triton"}


def surface(command: click.Command, path: str = "") -> dict[str, set[str]]:
    """Return the arguments and options of a command and of all below it."""
    found = {path: {name for parameter in command.params for name in parameter.opts}}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            found |= surface(below, f"{path} {name}".strip())
    return found


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["study", "--help"], ["lens", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    output, _, loaded = done.stdout.partition("LOADED ")
    assert "laminogram" in output
    assert HEAVY.isdisjoint(json.loads(loaded))


def test_the_surface_is_the_promised_one() -> None:
    assert surface(cli) == SURFACE


def test_group_help_lists_every_command_with_its_line_and_examples() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(100) in text
        assert not command.get_short_help_str(100).endswith("...")
    assert "Examples:" in text
    assert "laminogram study MODEL --open" in text


def test_every_option_says_what_it_does() -> None:
    def check(command: click.Command) -> None:
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "max_new_tokens":
                assert parameter.help, f"{command.name} {parameter.name}"
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                check(below)

    check(cli)


def test_an_unknown_command_is_a_wrong_use() -> None:
    result = CliRunner().invoke(cli, ["studdy"])
    assert result.exit_code == 2
    assert "studdy" in result.stderr
