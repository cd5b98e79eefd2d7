"""`laminogram doctor`: check a loaded model by arithmetic."""

from __future__ import annotations

import click

from laminogram.cli.options import load_view, placement, refuse_unknown
from laminogram.cli.tables import print_table

VERDICTS = {True: "held", False: "BROKEN", None: "not asked"}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


@click.command(name="doctor", short_help="Check a model by arithmetic: what held, and by how much.")
@click.argument("model")
@placement
def command(model: str, dtype: str | None, device: str | None) -> None:
    """Check MODEL by arithmetic and say what held, and by how much.

    Its block equation, pattern @ v == z, step mode against sequence mode, cache against no cache, a
    batch against its rows, an edit that changes nothing, and on a GPU a step from a CUDA graph, or
    why none could be captured. The exit status is 1 if a check did not hold.
    """
    refuse_unknown([model])
    from laminogram.studies.doctor import examine

    report = examine(load_view(model, dtype, device))
    rows = [
        (row.name, VERDICTS[row.held], _number(row.value), _number(row.tolerance), row.note)
        for row in report.rows
    ]
    print_table(("check", "verdict", "value", "tolerance", "note"), rows, title=f"doctor: {model}")
    if not report.ok:
        broken = ", ".join(row.name for row in report.rows if row.held is False)
        raise click.ClickException(f"{model}: these checks did not hold: {broken}")
