"""`laminogram ls`: bundled models, families that load, and the sites of a model."""

from __future__ import annotations

import click

from laminogram.cli.options import load_view
from laminogram.cli.tables import print_table


@click.group(name="ls", short_help="List bundled models, families, or the sites of a model.")
def command() -> None:
    """List what there is: bundled models, families that load, or the sites of a model."""


@command.command(name="models")
def models() -> None:
    """List the models that come with the package and, in a clone, those of its zoo."""
    from laminogram.bundled import names, zoo

    rows = [(name, "package", line) for name, line in names().items()]
    rows += [(name, "zoo", line) for name, line in zoo().items()]
    print_table(("model", "from", "what it is"), rows, title="bundled models")


@command.command(name="families")
def families() -> None:
    """List the families that load natively, each one small file.

    "answers to" are the values of `model_type` in a config.json, "layouts" the published forms of
    its tensors that are read and written, "told from tensors" whether a file without a
    configuration is recognised, "lines" those of code in the family's file. Every family has
    probes, edits, plans and generation (an encoder: no generation).
    """
    from laminogram.families import known, lines_of_code

    rows = [
        (
            family.name,
            ", ".join(family.model_types),
            ", ".join(layout.name for layout in family.layouts),
            "yes" if family.recognise is not None else "no",
            str(lines_of_code(family)),
            family.summary,
        )
        for family in known().values()
    ]
    columns = ("family", "answers to", "layouts", "told from tensors", "lines", "what it is")
    print_table(columns, rows, title="families")


@command.command(name="sites")
@click.argument("model")
def sites(model: str) -> None:
    """List the sites of MODEL: their axes, their meaning, and whether they can be edited.

    Below the table stands what the letters of its axes mean.
    """
    from laminogram.stack.sites import AXES, describe

    view = load_view(model)
    rows = [
        (row.name, " ".join(row.axes), row.access, row.availability, row.meaning)
        for row in describe(view.config)
    ]
    print_table(("site", "axes", "access", "where", "meaning"), rows, title=f"sites of {model}")
    used = {axis for row in rows for axis in row[1].split()}
    click.echo(f"\naxes: {', '.join(f'{axis} {AXES[axis]}' for axis in AXES if axis in used)}")
