"""`laminogram convert`: write a model as another family, or in another of its own forms."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from laminogram.cli.options import DTYPES, Function, parse_dtype
from laminogram.cli.tables import print_table

if TYPE_CHECKING:
    from laminogram.convert.megatron import ToMegatron
    from laminogram.convert.prepare import Prepared
    from laminogram.convert.proof import Proof
    from laminogram.convert.write import Converted, Progress


_SHARD_SIZE = 5.0


def _cut(function: Function) -> Function:
    """Add what says how a Megatron checkpoint is cut."""
    options = (
        click.option("--tp", type=click.IntRange(min=1), help="Megatron: tensor-parallel ranks."),
        click.option("--pp", type=click.IntRange(min=1), help="Megatron: pipeline stages."),
        click.option("--vpp", type=click.IntRange(min=1), help="Megatron: chunks of a stage."),
        click.option("--stages", metavar="N,N,...", help="Megatron: layers of every chunk."),
        click.option(
            "--norms",
            type=click.Choice(["te", "local"]),
            help="Megatron: names of norms, Transformer Engine's (default) or the plain ones.",
        ),
        click.option(
            "--vocab-padding",
            type=click.Choice(["zero", "last"]),
            help="Megatron: rows that pad the vocabulary, zeros (default) or copies of the last.",
        ),
        click.option(
            "--vocab-divisible-by",
            type=click.IntRange(min=1),
            help="Megatron: what each rank's rows of the vocabulary are a multiple of (128).",
        ),
        click.option(
            "--common",
            type=click.Choice(["file", "inside"]),
            help="Megatron: torch_dist's other state, as common.pt (default) or as since 2026.",
        ),
        click.option(
            "--iteration",
            type=click.IntRange(min=0),
            help="Megatron: the iteration's number; default: a release.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command(name="convert", short_help="Write a model as another family, with proof.")
@click.argument("source", required=False)
@click.argument("dst", type=click.Path(path_type=Path), required=False)
@click.option(
    "--to", metavar="FAMILY|megatron", help="The family to write; default: the source's own."
)
@click.option(
    "--layout",
    help="Which of the family's forms (laminogram ls families); default: its first, within the "
    "source's own family one that the source is not in. Megatron: legacy or torch_dist.",
)
@click.option("--lossy", is_flag=True, help="Allow what is lost; it is printed.")
@click.option(
    "--dtype",
    type=click.Choice(list(DTYPES)),
    metavar="fp32|bf16|fp16",
    help="Precision of the result; default: each tensor keeps its own.",
)
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Run both models on the same tokens; default: for weights of up to 1 GB.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be done, and write nothing.")
@click.option("--pairs", is_flag=True, help="Print which family converts to which, and stop.")
@click.option(
    "--rescaled",
    type=click.IntRange(min=1),
    help="For an RWKV that transformers saved after it ran: its rescale_every.",
)
@click.option(
    "--vocab-size",
    type=click.IntRange(min=1),
    help="True rows of a Megatron source's vocabulary, where its files do not say.",
)
@click.option(
    "--shard-size",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Gigabytes of one file of weights.  [default: {_SHARD_SIZE:g}]",
)
@_cut
def command(
    source: str | None,
    dst: Path | None,
    to: str | None,
    layout: str | None,
    lossy: bool,
    dtype: str | None,
    verify: bool | None,
    dry_run: bool,
    pairs: bool,
    rescaled: int | None,
    vocab_size: int | None,
    shard_size: float | None,
    **cut: Any,
) -> None:
    """Write the model SOURCE as the new directory DST, as another family or in another form.

    Either may be Megatron's: --to megatron writes for --tp ranks and --pp stages, and a source that
    is one is recognised. What the target cannot express is refused with the reason before anything
    is written. The grade (same bytes, exact in fp32, lossy) and the proof are printed and stored in
    DST/laminogram.json. A conversion that was broken off goes on where it stood when the same
    command is given again.

    \b
    Examples:
      laminogram convert ./qwen2.5-7b ./as-llama --to llama
      laminogram convert ./model.pth ./hf --layout fla
      laminogram convert ./glm-4-9b ./as-llama --to llama --dry-run
      laminogram convert ./qwen2.5-7b ./ranks --to megatron --tp 4 --pp 2
      laminogram convert ./ranks --to megatron --tp 8 --dry-run
      laminogram convert --pairs
    """
    if pairs:
        _print_pairs()
        return
    if source is None or (dst is None and not dry_run):
        raise click.UsageError("SOURCE and DST are needed (or --pairs)")
    from laminogram.checkpoint.apply import refuse_existing

    if dst is not None:
        refuse_existing(dst)
    asked = {"layout": layout, "dtype": parse_dtype(dtype), "vocab_size": vocab_size}
    target = None if dry_run else dst
    if to == "megatron":
        _refuse("families", {"rescaled": rescaled, "shard-size": shard_size})
        _to_megatron(source, target, verify, asked | cut)
    else:
        _refuse("--to megatron", cut)
        asked |= {"lossy": lossy, "rescaled": rescaled}
        _to_family(source, target, verify, to, shard_size, asked)


def _refuse(what_for: str, options: dict[str, Any]) -> None:
    """Refuse options that were given and are for something else."""
    for name, value in options.items():
        if value is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} is for {what_for}")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _to_family(
    source: str,
    dst: Path | None,
    verify: bool | None,
    to: str | None,
    shard_size: float | None,
    asked: dict[str, Any],
) -> None:
    """Write, or without `dst` print what would be written."""
    from laminogram.convert.prepare import prepare
    from laminogram.convert.write import write

    prepared = prepare(source, to, **_given(asked))
    if prepared.form.standalone:
        _refuse("results in several files, not for one .pth file", {"shard-size": shard_size})
    _print_route(prepared)
    if dst is None:
        _print_tensors(prepared)
        return
    shard_bytes = int((shard_size or _SHARD_SIZE) * 1e9)
    with _bar(prepared.nbytes) as progress:
        done = write(prepared, dst, verify=verify, progress=progress, max_shard_bytes=shard_bytes)
    _print_result(prepared, done)


def _to_megatron(source: str, dst: Path | None, verify: bool | None, asked: dict[str, Any]) -> None:
    """Write, or without `dst` print what would be written."""
    from laminogram.convert.megatron import prepare_megatron, write_prepared

    choices = _given(asked)
    if "stages" in choices:
        choices["stages"] = _whole_numbers(choices["stages"], "--stages")
    conversion = prepare_megatron(source, **choices)
    _print_cut(conversion)
    if dst is None:
        _print_parts(conversion)
        return
    with _bar(conversion.nbytes) as progress:
        written, proof = write_prepared(conversion, dst, verify=verify, progress=progress)
    _print_proof(proof)
    click.echo(f"wrote {written}, opened by Megatron-LM")


def _whole_numbers(text: str, option: str) -> list[int]:
    counts = text.split(",")
    if not all(count.strip().isdigit() for count in counts):
        raise click.BadParameter("expected whole numbers with commas", param_hint=option)
    return [int(count) for count in counts]


def _print_cut(conversion: ToMegatron) -> None:
    described, target = conversion.prepared.described, conversion.model.target
    click.echo(
        f"{conversion.prepared.name}: {described.family.name} ({described.layout.name}) -> "
        f"megatron ({target.layout}, tp {target.tp}, pp {target.pp}, vpp {target.vpp}), "
        f"{len(conversion.model.infos)} tensors, {conversion.nbytes / 1e6:,.1f} MB"
    )
    _print_grade(conversion.prepared)


def _print_parts(conversion: ToMegatron) -> None:
    read = conversion.prepared.files
    rows = [
        (
            row.key,
            _first_and_last([str(file) for file in row.files]),
            ", ".join(row.origins) or "-",
            _first_and_last(read(row.origins)),
            row.operation or "copy",
            f"{row.nbytes:,}",
        )
        for row in conversion.rows
    ]
    _print_table(("to", "files", "from", "read from", "operation", "bytes"), rows)
    _print_needs(conversion.nbytes, conversion.memory)


def _first_and_last(files: Sequence[str]) -> str:
    """Files that are numbered, by the first and the last of them."""
    return " .. ".join(dict.fromkeys((files[0], files[-1]))) if files else ""


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """The table of tensors, without the files that are read where the source names none."""
    place = header.index("read from")
    if not any(row[place] for row in rows):
        header = header[:place] + header[place + 1 :]
        rows = [row[:place] + row[place + 1 :] for row in rows]
    print_table(header, rows, title="tensors")


def _print_pairs() -> None:
    from laminogram.convert.pairs import pairs

    rows = [(one.source, one.target, one.grade, one.how) for one in pairs()]
    print_table(("from", "to", "grade", "how, or why not"), rows, title="conversions")


def _print_route(prepared: Prepared) -> None:
    described, route = prepared.described, prepared.route
    click.echo(
        f"{prepared.name}: {described.family.name} ({described.layout.name}) -> "
        f"{route.form.family.name} ({route.form.layout.name}), {len(prepared.tensors)} tensors, "
        f"{prepared.nbytes / 1e6:,.1f} MB"
    )
    _print_grade(prepared)


def _print_grade(prepared: Prepared) -> None:
    route = prepared.route
    for number, change in enumerate(route.changes, 1):
        click.echo(f"change {number}: {change.what} ({change.grade})")
    bound = "" if route.limit is None else f", for texts of up to {route.limit} tokens"
    click.echo(f"grade: {prepared.verdict}{bound}")
    for loss in prepared.losses:
        click.echo(f"lost: {loss}")
    if prepared.rounded and prepared.dtype is None:
        click.echo(
            "numbers computed anew are rounded to the weights' dtype: --dtype fp32 keeps more"
        )


def _print_tensors(prepared: Prepared) -> None:
    rows = [
        (
            name,
            ", ".join(planned.origins) or "-",
            _first_and_last(prepared.files(planned.origins)),
            planned.operation or "copy",
            f"{planned.info.nbytes:,}",
        )
        for name, planned in prepared.tensors.items()
    ]
    _print_table(("to", "from", "read from", "operation", "bytes"), rows)
    _print_needs(prepared.disk, prepared.memory)


def _print_needs(disk: int, memory: int) -> None:
    click.echo(
        f"needs {disk / 1e9:,.2f} GB of disk and at most {memory / 1e9:,.2f} GB of memory; "
        "nothing was written"
    )


@contextmanager
def _bar(total: int) -> Iterator[Progress | None]:
    """A bar on stderr where a person watches: what to call with bytes done and in all."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=total, label="writing", file=sys.stderr) as bar:
        yield lambda done, total: bar.update(done - bar.pos)


def _print_result(prepared: Prepared, done: Converted) -> None:
    for remark in done.remarks:
        click.echo(f"- {remark}")
    _print_proof(done.proof)
    target = prepared.form.layout.target
    opened = "the programs that open its source" if target is None else target.opened_by
    click.echo(f"wrote {done.path}, opened by {opened}")


def _print_proof(proof: Proof | None) -> None:
    text = "no proof was made; --verify makes one" if proof is None else f"proof: {proof}"
    click.echo(text)
