"""`laminogram eeg`: every layer at every token, as a page, a still or a movie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from laminogram.cli.options import DTYPES, parse_device, placement, planning, refuse_unknown

LARGE = 25
"""Megabytes above which the command says that the file is large."""
EXAMPLES = """\b
Examples:
  laminogram eeg tiny-llama --prompt "The sea was" --out sea.html
  laminogram eeg tiny-llama tiny-rwkv4 --text-file poem.txt --out poem.gif
  laminogram eeg MODEL --precision fp32,bf16 --site resid_post --out both.html
  laminogram eeg MODEL --frame 3 --theme dark --out still.png
  laminogram eeg MODEL --text-only
"""


def _precisions(context: click.Context, option: click.Parameter, text: str | None) -> list[str]:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in DTYPES:
            raise click.BadParameter(f"{name!r} is none of fp32, bf16 and fp16.")
    return names


@click.command(
    name="eeg", epilog=EXAMPLES, short_help="Draw every layer, token by token: page, GIF, PNG, MP4."
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--prompt", help="The text to read; default: the question about Python.")
@click.option(
    "--text-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A UTF-8 file with the text to read.",
)
@click.option(
    "--site", default="ffn_out", show_default=True, help="What to draw; see `laminogram ls sites`."
)
@click.option(
    "--new-tokens",
    type=click.IntRange(min=0),
    metavar="N",
    help="Tokens that each model then generates; default: 24, or as many as its context holds.",
)
@click.option(
    "--precision",
    "precisions",
    callback=_precisions,
    metavar="fp32,bf16",
    help="Read with each of these precisions, side by side on the same tokens.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="x.html, x.png, x.gif or x.mp4; the numbers go beside it into x.data. "
    "Default: a new name in this directory.",
)
@click.option("--force", is_flag=True, help="Replace FILE and its numbers where they exist.")
@click.option("--full", is_flag=True, help="Every channel in the page, not at most 512 columns.")
@click.option(
    "--frame",
    "--token",
    "moment",
    type=int,
    default=-1,
    metavar="N",
    help="PNG: which token, from 0; -1 is the last (default).",
)
@click.option(
    "--fps",
    type=click.FloatRange(0, 50, min_open=True),
    default=4.0,
    show_default=True,
    help="GIF and MP4: tokens a second.",
)
@click.option(
    "--theme",
    type=click.Choice(["light", "dark"]),
    default="light",
    show_default=True,
    help="PNG, GIF and MP4: the page follows its reader.",
)
@click.option(
    "--scale",
    type=click.Choice(["symlog", "linear"]),
    default="symlog",
    show_default=True,
    help="PNG, GIF and MP4: one for all models and tokens; the page has a switch.",
)
@click.option(
    "--text-only",
    is_flag=True,
    help="Print layers and largest channels as tables and sparklines; write nothing.",
)
@planning
@placement
def command(
    models: tuple[str, ...],
    prompt: str | None,
    text_file: Path | None,
    site: str,
    new_tokens: int | None,
    precisions: list[str],
    out: Path | None,
    force: bool,
    text_only: bool,
    dtype: str | None,
    device: str | None,
    plan: str | None,
    kv: str | None,
    **look: Any,
) -> None:
    """Draw what every layer of each MODEL says at every token of a text, and after it.

    Traces (a line a layer over its channels) and heat map (layers by channels), token by token, for
    the text and for what the model then generates. FILE's ending says what is made: a page that
    works offline, a still, or a movie.
    """
    if prompt is not None and text_file is not None:
        raise click.UsageError("--prompt and --text-file exclude each other: give one of them.")
    if precisions and dtype is not None:
        raise click.UsageError("--precision and --dtype exclude each other: give one of them.")
    if text_only and out is not None:
        raise click.UsageError("--text-only writes no picture: leave out --out.")
    refuse_unknown(models)
    asked: dict[str, Any] = {
        "site": site,
        "new_tokens": new_tokens,
        "plan": plan,
        "kv": kv,
        "dtype": dtype,
        "precisions": precisions,
        "device": parse_device(device),
    }
    if text_only:
        from laminogram.report.terminal_eeg import print_eeg
        from laminogram.studies.study import read_text, study_models

        print_eeg(study_models(list(models), text=read_text(prompt, text_file), **asked))
        return
    from laminogram.report.eeg import Look, run_eeg

    path = run_eeg(list(models), prompt, text_file, out, look=Look(**look), force=force, **asked)
    size = path.stat().st_size / 1e6
    if size > LARGE:
        click.echo(f"{path.name} is {size:.0f} MB; it will be slow to open and to send", err=True)
    click.echo(str(path.resolve()))
