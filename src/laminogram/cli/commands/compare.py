"""`laminogram compare`: conditions beside each other on the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from laminogram.cli.options import load_view, placement, read_short, short_documents

if TYPE_CHECKING:
    from laminogram.studies.compare import Comparison, Condition

EXAMPLES = """\b
Examples:
  laminogram compare tiny-llama tiny-llama@precision=int8 tiny-llama@precision=int4
  laminogram compare tiny-llama tiny-rwkv4 --text-file documents.jsonl
  laminogram compare MODEL MODEL@plan=0-3,5-7 MODEL@edit=zero:ffn_out:layers=2:channels=17
  laminogram compare MODEL@bos=on MODEL@bos=off --text-only
  laminogram compare runs/step-1000 runs/step-2000
  laminogram compare MODEL@text=books.txt MODEL@text=code.txt

\b
A CONDITION is MODEL, then any of
  @precision=NAME   fp32, bf16, int8, w8a8, bf16+int4-g128, ...
  @plan=PLAN        the order of its layers; @kv=exact or @kv=averaged
  @bos=on|off       texts begin with the begin-of-text token, or do not
  @text=FILE        documents of its own
  @edit=EDIT        may come again: OPERATION[=NUMBER]:SITE[:layers=0-3,5][:channels=7]
                    [:heads=][:experts=][:positions=][:steps=][:dose=0.5], with zero, set=, add=,
                    scale=, clip=, winsorise=, sign=, normalise=; or rotate=SEED; or
                    entry=FACTOR:PARAMETER:ROW:COLUMN for one weight
"""


@click.command(
    name="compare", short_help="Models, precisions, plans, edits side by side.", epilog=EXAMPLES
)
@click.argument("conditions", nargs=-1, required=True, metavar="CONDITION CONDITION...")
@short_documents
@click.option(
    "--sites",
    default="attn_out,ffn_out,resid_post",
    show_default=True,
    help="Where states are compared; see ls sites MODEL.",
)
@click.option(
    "--scale",
    type=click.Choice(["rms", "median"]),
    default="rms",
    show_default=True,
    help="What |x| is divided by before distributions are compared.",
)
@click.option(
    "--bos/--no-bos",
    default=None,
    help="Whether texts begin with the begin-of-text token; default: the tokenizer's habit.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the page goes; must not exist. Default: a new name in this directory.",
)
@click.option("--force", is_flag=True, help="Replace a page that stands at DIR.")
@click.option("--text-only", is_flag=True, help="Print to the terminal, write nothing.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@placement
def command(
    conditions: tuple[str, ...],
    text_file: Path | None,
    letters: int,
    documents: int | None,
    sites: str,
    scale: str,
    bos: bool | None,
    out: Path | None,
    force: bool,
    text_only: bool,
    open_page: bool,
    dtype: str | None,
    device: str | None,
) -> None:
    """Compare every CONDITION with the first: outputs, states layer by layer, and distributions.

    On the same tokens everything is compared; where tokenizers differ, bits a byte and
    distributions; where texts differ, distributions. Layers are matched by number, or by relative
    depth where models have different numbers of them.
    """
    if len(conditions) < 2:
        raise click.UsageError("a comparison needs two conditions at least.")
    if text_only and (out is not None or open_page):
        raise click.UsageError("--text-only writes nothing: leave out --out and --open.")
    from laminogram.report.folder import free_folder, refuse_existing
    from laminogram.studies.compare import Condition

    if out is not None:
        refuse_existing(out, force)  # said before the models run, not after
    parsed = [Condition.parse(one) for one in conditions]
    how = {"sites": [one.strip() for one in sites.split(",")], "scale": scale}
    result = _compared(parsed, (text_file, letters, documents), bos, (dtype, device), how)
    if text_only:
        from laminogram.report.terminal import print_result

        print_result(result)
        return
    from laminogram.report.gallery import write_pictures
    from laminogram.report.pictures.compare import pictures

    target = free_folder("laminogram-compare") if out is None else out
    first, *others = result.labels
    other = others[0] if len(others) == 1 else "others"
    facts = {"kind": "compare", "heading": f"{first} and {other}, compared"}
    index = write_pictures(pictures(result), target, facts, force=force).resolve()
    click.echo(str(index))
    if open_page:
        click.launch(index.as_uri())


def _compared(
    conditions: Sequence[Condition],
    reading: tuple[Path | None, int, int | None],
    bos: bool | None,
    placed: tuple[str | None, str | None],
    how: dict[str, Any],
) -> Comparison:
    from laminogram.studies.compare import compare

    text_file, letters, count = reading
    opened = {one.model: load_view(one.model, *placed) for one in conditions}  # each once
    return compare(
        [one.of(opened[one.model]) for one in conditions],
        read_short(text_file, letters, count),
        labels=[str(one) for one in conditions],
        inputs={
            number: read_short(Path(one.text_file), letters, count)
            for number, one in enumerate(conditions)
            if one.text_file is not None
        },
        bos=[bos if one.bos is None else one.bos for one in conditions],
        **how,
    )
