"""`laminogram plan`: plans as text, as pictures, and with their cost."""

from __future__ import annotations

import click

from laminogram.cli import plan_commands
from laminogram.cli.folder import FolderGroup

EXAMPLES = """\b
Examples:
  laminogram plan show "0-7, 3x(mean(8-24)), 25-31"
  laminogram plan show "0-2, 2, 4-5" --model tiny-llama --html plan.html
  laminogram plan build reverse --layers 32 --start 7
  laminogram plan variants --layers 32 --affected 17
  laminogram plan apply tiny-llama "0-1, 4-5" without-the-middle
  laminogram generate MODEL --prompt "The sea was" --plan "$(laminogram plan build skip \\
    --layers 32 --affected 3)"

\b
The language:
  0-31                         the whole stack
  0-7, 25-31                   skip the middle
  0-7, 24-8, 25-31             the middle reversed
  0-7, mean(8-24), 25-31       the middle in parallel, outputs averaged
  0-7, 3x(mean(8-24)), 25-31   looped three times
  0-11, 12.attn, 13-31         only the attention half of layer 12
  0-3, mean(4-6 | 7, 8), 9-31  two branches, each a plan
"""


@click.group(
    name="plan",
    cls=FolderGroup,
    folder=plan_commands,
    epilog=EXAMPLES,
    short_help="Show, build, list and write plans: the order in which layers run.",
)
def command() -> None:
    """Show, build, list and write plans: the order in which the layers of a model run."""
