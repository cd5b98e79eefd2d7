"""`laminogram paint`: the questions of "Transformer Layers as Painters", asked of any model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from laminogram.cli.options import keeps_parts, load_view, placement, refuse_unknown, remembering

if TYPE_CHECKING:
    from laminogram.studies.painters import Painters

EXAMPLES = """\b
Examples:
  laminogram paint tiny-llama --open
  laminogram paint MODEL --text-file held-out.jsonl --out DIR
  laminogram paint MODEL --tasks arc_easy,winogrande --data DIR --limit 500
  laminogram paint MODEL --variants skip,parallel,random --seeds 3 --text-only
"""


@click.command(
    name="paint", short_help="Skip, swap, reverse, shuffle, average the layers.", epilog=EXAMPLES
)
@click.argument("model")
@click.option(
    "--variants",
    metavar="A,B",
    help="Some of skip_one, swap, skip, middle_repeat, parallel, reverse, random, looped, "
    "iterations; default: all.",
)
@click.option(
    "--tasks",
    metavar="A,B",
    help="Names of tasks, scored under every plan beside the text; needs the extra [eval].",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Benchmarks on this machine: for each task a folder of train, validation, test files.",
)
@click.option(
    "--text-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Held-out text, or JSON lines with a field text; default: a few short passages.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N documents of a task.")
@click.option("--shots", type=click.IntRange(min=0), help="Examples in each prompt of a benchmark.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Shuffles, averaged.",
)
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="The parallel middle runs 1 to N times in the heat map.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Results as they come go to DIR/work, the page to DIR/report; run again after a kill, it "
    "goes on where it was. Default: laminogram-paint-MODEL.",
)
@click.option("--text-only", is_flag=True, help="Print tables; write no page.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@remembering("What parallel layers remember while a task generates")
@click.option(
    "--bos/--no-bos",
    default=None,
    help="Whether texts and prompts begin with the begin-of-text token; default: as the tokenizer "
    "does it. The zoo's models were trained with it.",
)
@placement
def command(
    model: str,
    variants: str | None,
    tasks: str | None,
    data: Path | None,
    text_file: Path | None,
    limit: int | None,
    shots: int | None,
    seeds: int,
    iterations: int,
    out: Path | None,
    text_only: bool,
    open_page: bool,
    kv: str | None,
    bos: bool | None,
    dtype: str | None,
    device: str | None,
) -> None:
    """Run every variant of "Transformer Layers as Painters" on MODEL and draw what it costs.

    Without tasks a variant is told by its loss on held-out text and its divergence from the
    unchanged model. An encoder is told by its masked tokens, or by its states where it has no head.
    """
    refuse_unknown([model])
    from laminogram.report.tables import slug
    from laminogram.studies.painters import paint

    view = load_view(model, dtype, device)
    folder = out or (None if text_only else Path(f"laminogram-paint-{slug(view.name)}"))
    _refuse_others(folder)
    keeps_parts(folder)
    result = paint(
        view,
        variants=_names(variants),
        texts=_texts(text_file),
        tasks=_open(_names(tasks) or [], data=data, text_file=text_file, limit=limit, shots=shots),
        seeds=seeds,
        repeats=iterations,
        kv=kv,  # type: ignore[arg-type]  # click has checked it
        bos=bos,
        work=folder and folder / "work",
        say=lambda text: click.echo(text, err=True),
    )
    if text_only:
        from laminogram.report.terminal import print_result

        print_result(result)
        return
    assert folder is not None
    index = _write(result, folder)
    click.echo(str(index))
    if open_page:
        click.launch(index.as_uri())


def _refuse_others(folder: Path | None) -> None:
    """Say before the model runs, not after, that something else stands where the page goes."""
    from laminogram.report.folder import refuse_existing

    if folder is not None:
        refuse_existing(folder / "report", force=True)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [one.strip() for one in text.split(",") if one.strip()]


def _texts(path: Path | None) -> list[str] | None:
    from laminogram.evaluate.documents import read_texts

    return None if path is None else read_texts(path)


def _open(names: list[str], **how: Any) -> list[Any]:
    if not names:
        return []
    from laminogram.evaluate.tasks import open_task

    return [open_task(name, **how) for name in names]


def _write(result: Painters, folder: Path) -> Path:
    from laminogram.report.gallery import write_pictures
    from laminogram.report.pictures.painters import pictures

    drawn = [*pictures(result), result.similarity]
    facts = {"kind": "paint", "heading": f"{result.model}: layers as painters"}
    return write_pictures(drawn, folder / "report", facts, force=True).resolve()
