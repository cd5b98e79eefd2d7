"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    import torch

    from laminogram.view import View

Function = TypeVar("Function", bound=Callable[..., Any])

# Both the short names of the field and torch's own.
DTYPES = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
}


def placement(function: Function) -> Function:
    """Add `--dtype` and `--device` to a command."""
    dtype = click.option(
        "--dtype",
        type=click.Choice(list(DTYPES)),
        metavar="fp32|bf16|fp16",
        help="Precision of the weights; default: as the checkpoint stores them.",
    )
    device = click.option(
        "--device",
        metavar="DEVICE",
        help="One device (cpu, cuda:1), several with commas, over which the layers are spread, "
        "or auto.",
    )
    return dtype(device(function))


def planning(function: Function) -> Function:
    """Add `--plan` and `--kv` to a command."""
    plan = click.option("--plan", help='Order of the layers, such as "0-7, 3x(8), 9-11".')
    return plan(remembering("What parallel layers remember")(function))


def remembering(what: str) -> Callable[[Function], Function]:
    """Add `--kv` to a command, whose help begins with `what`."""
    return click.option(
        "--kv",
        type=click.Choice(["exact", "averaged"]),
        help=f"{what}: exact, each its own keys and values (default), or averaged, their mean, as "
        "in the painters paper.",
    )


def changing(function: Function) -> Function:
    """Add `--edit` and `--precision` to a command, in the words of a condition of `compare`."""
    edit = click.option(
        "--edit",
        "edits",
        multiple=True,
        metavar="EDIT",
        help="An edit, such as zero:ffn_out:layers=2:channels=17; repeatable. It acts under every "
        "plan; `compare --help` has the words.",
    )
    precision = click.option(
        "--precision",
        metavar="NAME",
        help="Weights and activations: fp32, bf16, int8, w8a8, bf16+int4-g128, ...",
    )
    return edit(precision(function))


def short_documents(function: Function) -> Function:
    """Add `--text-file`, `--letters` and `--documents` to a command; `read_short` reads them."""
    text_file = click.option(
        "--text-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Documents: JSON lines or Parquet with a field text, or the passages of a plain text. "
        "Default: sixteen short ones that come with the package.",
    )
    letters = click.option(
        "--letters",
        type=click.IntRange(min=1),
        default=1000,
        show_default=True,
        help="Letters that are read of each document.",
    )
    documents = click.option(
        "--documents", type=click.IntRange(min=1), help="Only the first N documents."
    )
    return text_file(letters(documents(function)))


def read_short(text_file: Path | None, letters: int, documents: int | None) -> list[str]:
    """The beginnings of documents: what the options of `short_documents` ask for."""
    from laminogram.studies.corpus import read_documents, shortened

    return [shortened(text, letters) for text in read_documents(text_file)[:documents]]


def parse_dtype(text: str | None) -> torch.dtype | None:
    """Turn the text of `--dtype` into a torch dtype; None stays None."""
    if text is None:
        return None
    import torch

    dtype: torch.dtype = getattr(torch, DTYPES[text])
    return dtype


def parse_device(text: str | None) -> str | list[str] | None:
    """Turn the text of `--device` into one device or a list of them; None stays None."""
    if text is None or "," not in text:
        return text
    return [name.strip() for name in text.split(",") if name.strip()]


KEPT = "laminogram.kept"
"""In a context's `meta`: where a command that is stopped leaves what it has finished."""


def keeps_parts(folder: Path | None) -> None:
    """Whoever stops this command is told that the same one goes on from what lies in `folder`."""
    if folder is not None:
        click.get_current_context().meta[KEPT] = folder


def refuse_unknown(models: Iterable[str]) -> None:
    """CheckpointError for what can be no model, at once: torch takes seconds to be imported."""
    from laminogram.checkpoint.resolve import refuse_unknown

    for model in models:
        refuse_unknown(model)


def load_view(model: str, dtype: str | None = None, device: str | None = None) -> View:
    """Load `model` with the texts of `--dtype` and `--device`; `load` decides the rest."""
    refuse_unknown([model])
    import laminogram

    chosen = {"dtype": parse_dtype(dtype), "device": parse_device(device)}
    given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    return laminogram.load(model, **given)
