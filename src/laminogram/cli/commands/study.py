"""`laminogram study`: the main job, from a model's name to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from laminogram.cli.options import parse_device, parse_dtype, placement, planning, refuse_unknown


@click.command(name="study", short_help="Record every layer on a text and write a report.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--prompt", help="The text to study; default: the question about Python.")
@click.option(
    "--text-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A UTF-8 file with the text to study.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the report goes; must not exist. Default: a new name in this directory.",
)
@click.option("--force", is_flag=True, help="Replace a report that stands at DIR.")
@click.option("--open", "open_report", is_flag=True, help="Open the report in a browser.")
@click.option(
    "--text-only",
    is_flag=True,
    help="Print the findings as tables and sparklines; write nothing.",
)
@planning
@placement
def command(
    models: tuple[str, ...],
    prompt: str | None,
    text_file: Path | None,
    out: Path | None,
    force: bool,
    open_report: bool,
    text_only: bool,
    plan: str | None,
    kv: str | None,
    dtype: str | None,
    device: str | None,
) -> None:
    """Record what every layer of each MODEL says on a text, and write a report.

    Without a MODEL: the bundled ones, side by side. With --plan, every MODEL runs its layers in
    that order. DIR receives index.html (one file, works offline), manifest.json, and the numbers
    behind every picture.
    """
    if prompt is not None and text_file is not None:
        raise click.UsageError("--prompt and --text-file exclude each other: give one of them.")
    if text_only and (out is not None or open_report):
        raise click.UsageError("--text-only writes no report: leave out --out and --open.")
    refuse_unknown(models)
    if text_file is not None:
        prompt = _read_text(text_file)
    chosen: dict[str, Any] = {
        "prompt": prompt,
        "out": out,
        "plan": plan,
        "kv": kv,
        "dtype": parse_dtype(dtype),
        "device": parse_device(device),
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    if text_only:
        _print_findings(list(models), given)
        return
    from laminogram.report.study import run_study

    if force:
        given["force"] = True
    index = Path(run_study(list(models), **given)).resolve()
    click.echo(str(index))
    if open_report:
        click.launch(index.as_uri())


def _print_findings(models: list[str], given: dict[str, Any]) -> None:
    from laminogram.report.terminal import print_study
    from laminogram.studies.study import read_text, study_models

    text = read_text(given.pop("prompt", None), None)
    print_study(study_models(models, text=text, **given))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.BadParameter(
            f"{path} is not UTF-8 text (byte {error.start}).", param_hint="--text-file"
        ) from error
