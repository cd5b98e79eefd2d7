"""`laminogram outliers`: every definition, precision and operation as one report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from laminogram.cli.options import (
    keeps_parts,
    load_view,
    placement,
    read_short,
    refuse_unknown,
    short_documents,
)

EXAMPLES = """\b
Examples:
  laminogram outliers tiny-llama tiny-rwkv4 --precisions fp32,int8
  laminogram outliers MODEL --precisions bf16,int8,w8a8,int4-g128 --text-file documents.jsonl
  laminogram outliers MODEL --edits none --text-only
"""


@click.command(
    name="outliers",
    short_help="Outliers by every definition, and what they do.",
    epilog=EXAMPLES,
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--precisions",
    metavar="A,B",
    help="Precisions to measure in; the first is the reference. Default: as loaded.",
)
@click.option(
    "--edits",
    metavar="A,B",
    help="Operations on the outliers, of zero, mean, clip, winsorise, sign, scale, normalise, "
    "rotate; or none. Default: zero,mean,clip,scale.",
)
@click.option(
    "--definitions",
    metavar="A,B",
    help="Definitions of outliers, such as massive_activations,dispersion. Default: all.",
)
@click.option(
    "--draws",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Random controls of each operation.",
)
@short_documents
@click.option(
    "--bos/--no-bos",
    default=None,
    help="Whether texts begin with the begin-of-text token; default: both, where there is one.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Finished parts go to DIR/work, the page to DIR/report; run again after a kill, it goes "
    "on where it was. Default: laminogram-outliers.",
)
@click.option("--text-only", is_flag=True, help="Print to the terminal; write no page.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@placement
def command(
    models: tuple[str, ...],
    precisions: str | None,
    edits: str | None,
    definitions: str | None,
    draws: int,
    text_file: Path | None,
    letters: int,
    documents: int | None,
    bos: bool | None,
    out: Path | None,
    text_only: bool,
    open_page: bool,
    dtype: str | None,
    device: str | None,
) -> None:
    """Measure each MODEL by every published definition of outliers, and report what they do.

    Verdicts and where they differ, dispersion by layer, the largest channels, precisions by their
    divergence, operations on outliers beside random controls, with BOS and without. What it costs
    is said before it starts. With --text-only, parts are kept only where --out is given.
    """
    refuse_unknown(models)
    from laminogram.report.folder import refuse_existing
    from laminogram.studies.outlier_report import Settings, outlier_report

    chosen: dict[str, Any] = {"precisions": _names(precisions), "edits": _names(edits)}
    chosen["definitions"] = _names(definitions)
    given = {name: value for name, value in chosen.items() if value is not None}
    settings = Settings(bos=bos, draws=draws, **given)
    folder = out or (None if text_only else Path("laminogram-outliers"))
    if folder is not None:
        refuse_existing(folder / "report", force=True)  # said before the models run, not after
    keeps_parts(folder)
    texts = read_short(text_file, letters, documents)
    result = outlier_report(
        [load_view(model, dtype, device) for model in dict.fromkeys(models)],
        texts,
        settings,
        work=folder and folder / "work",
        say=lambda line: click.echo(line, err=True),
    )
    if text_only:
        from laminogram.report.terminal import print_result

        print_result(result)
        return
    from laminogram.report.gallery import write_pictures
    from laminogram.report.pictures.outliers import pictures

    assert folder is not None
    facts = {"kind": "outliers", "heading": f"Outliers of {', '.join(result.models)}"}
    index = write_pictures(pictures(result), folder / "report", facts, force=True).resolve()
    click.echo(str(index))
    if open_page:
        click.launch(index.as_uri())


def _names(text: str | None) -> tuple[str, ...] | None:
    """The names of a list, none for `none`; None stays None."""
    if text is None:
        return None
    return () if text.strip() == "none" else tuple(one.strip() for one in text.split(","))
