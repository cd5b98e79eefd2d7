"""The `laminogram` command: finds its commands by file name and prints errors as one line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from laminogram.cli import commands
from laminogram.cli.folder import FolderGroup
from laminogram.cli.options import KEPT
from laminogram.errors import LaminogramError

EXAMPLES = """\b
Examples:
  laminogram study                       the bundled models side by side, as a report
  laminogram study MODEL --open          your own model; the report opens in a browser
  laminogram eeg MODEL --out x.gif       every layer, token by token: a page, GIF, PNG or MP4
  laminogram map MODEL --with all        every picture of a model on one page
  laminogram lens MODEL --text-only      what it would say at each layer, in the terminal
  laminogram generate tiny-rwkv4 --prompt "The sea was"
  laminogram ls models                   the models that come with the package
  laminogram ls sites tiny-llama         what can be recorded and edited in a model
  laminogram plan show "0-7, 25-31"      the order of layers as a picture, and what it costs
  laminogram convert MODEL DIR --to qwen2 as another family, or for Megatron, with proof
  laminogram outliers MODEL --open       every definition of an outlier, and what they do
  laminogram compare A A@precision=int8  any conditions on the same tokens
  laminogram paint MODEL --open          layers skipped, swapped, reversed, averaged, as one page
  laminogram evaluate MODEL --plan PLAN  what a changed order keeps of the model's skills
  laminogram count config.json           what a model needs, before anything is downloaded
  laminogram doctor MODEL                does the arithmetic of this model hold?

\b
MODEL is a bundled name, a directory with config.json and safetensors, a .pth file or a hub id.
Results stay on this machine: nothing is sent anywhere.
"""


class Commands(FolderGroup):
    """A group that prints errors raised on purpose as one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error raised on purpose becomes one line without `--debug`."""
        try:
            return super().invoke(ctx)
        except LaminogramError as error:
            if ctx.params["debug"]:
                raise
            raise click.ClickException(" ".join(str(error).split())) from error
        except KeyboardInterrupt:
            if (folder := ctx.meta.get(KEPT)) is not None:
                said = f"\nWhat is finished lies in {folder}; the same command goes on from there."
                click.echo(said, err=True)
            raise


@click.command(
    cls=Commands,
    folder=commands,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="laminogram", message="%(package)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """See, measure and rewire the layers of language models: Transformers, BERT and RWKV."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line on `args` (default: the process's arguments) and exit.

    Exit status: 0 for success, 1 for an error raised on purpose or a check that did not hold, 2 for
    a wrong use of the command line.
    """
    # Read by OpenMP when torch loads. Threads that spin while they wait halve the speed of whatever
    # else runs on the machine; a value that the user has set stays.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    cli.main(args=args, prog_name="laminogram")
