"""What the commands that draw one picture share: their options, and study -> picture -> page."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from laminogram.cli.options import load_view, placement, planning
from laminogram.errors import FamilyError

Function = TypeVar("Function", bound=Callable[..., Any])

STUDIES = {
    "lens": "lens",
    "attention": "attention",
    "similarity": "similarity",
    "massive": "massive",
    "map": "model_map",
    "next": "next_token",
}
"""The name of a command, and the module and function of `laminogram.studies` behind it."""


def picture_options(function: Function) -> Function:
    """Add MODEL and the options that every picture has to a command."""
    function = planning(placement(function))
    for option in reversed(
        [
            click.argument("model"),
            click.option("--prompt", help="The text to read; default: the question about Python."),
            click.option(
                "--text-file",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="A UTF-8 file with the text to read.",
            ),
            click.option(
                "--with",
                "others",
                multiple=True,
                type=click.Choice([*STUDIES, "all"]),
                metavar="PICTURE",
                help=f"Another picture on the same page, linked: {', '.join(STUDIES)} or all.",
            ),
            click.option(
                "--out",
                type=click.Path(path_type=Path),
                metavar="DIR",
                help="Where the page goes; must not exist. Default: a new name in this directory.",
            ),
            click.option("--force", is_flag=True, help="Replace a page that stands at DIR."),
            click.option("--text-only", is_flag=True, help="Print to the terminal, write nothing."),
            click.option("--open", "open_page", is_flag=True, help="Open the page in a browser."),
        ]
    ):
        function = option(function)
    return function


def show_picture(
    kind: str,
    *,
    model: str,
    prompt: str | None,
    text_file: Path | None,
    others: tuple[str, ...],
    out: Path | None,
    force: bool,
    text_only: bool,
    open_page: bool,
    plan: str | None,
    kv: str | None,
    dtype: str | None,
    device: str | None,
    more_files: tuple[Path, ...] = (),
    **asked: Any,
) -> None:
    """Run the study `kind` with the settings `asked`, and those of `--with`; print or draw them.

    The study `kind` reads the text and those of `more_files`, the companions the text alone.
    """
    if prompt is not None and text_file is not None:
        raise click.UsageError("--prompt and --text-file exclude each other: give one of them.")
    if text_only and out is not None:
        raise click.UsageError("--text-only writes nothing: leave out --out.")
    from laminogram.report.folder import free_folder, refuse_existing
    from laminogram.studies.study import read_text

    if out is not None:
        refuse_existing(out, force)  # said before the model runs, not after
    text = read_text(prompt, text_file)
    view = load_view(model, dtype, device)
    conditions: dict[str, Any] = {"plan": plan, "kv": kv}
    conditions = {name: given for name, given in conditions.items() if given is not None}
    view = view.using(**conditions) if conditions else view
    texts = [text, *(read_text(None, file) for file in more_files)]
    results = [_study(kind)(view, texts if more_files else text, **asked)]
    results += list(_companions(kind, others, view, text))
    if text_only:
        from laminogram.report.terminal import print_result

        for result in results:
            print_result(result)
        return
    from laminogram.report.gallery import write_pictures

    target = free_folder(f"laminogram-{kind}") if out is None else out
    facts = {"kind": kind, "text": text}
    index = write_pictures(results, target, facts, force=force).resolve()
    click.echo(str(index))
    if open_page:
        click.launch(index.as_uri())


def _companions(kind: str, others: tuple[str, ...], view: Any, text: str) -> Iterator[Any]:
    """The results of `--with`; of `all`, those that this family has."""
    for name in STUDIES if "all" in others else dict.fromkeys(others):
        if name == kind:
            continue
        try:
            yield _study(name)(view, text)
        except FamilyError as error:
            if name in others:
                raise
            click.echo(f"without {name}: {error}", err=True)


def _study(kind: str) -> Callable[..., Any]:
    name = STUDIES[kind]
    study: Callable[..., Any] = getattr(importlib.import_module(f"laminogram.studies.{name}"), name)
    return study


def parse_layers(text: str | None) -> list[int] | None:
    """Turn "0-3, 7" into [0, 1, 2, 3, 7]; None stays None. A wrong use where it is no such list."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:\s*-\s*(\d{1,4}))?\s*", part)
        if match is None:
            said = f"{part.strip()!r} is no layer: write 0-3, 7"
            raise click.BadParameter(said, param_hint="--layers")
        first, last = int(match[1]), int(match[2] or match[1])
        found += range(first, last + 1)
    return found
