"""`laminogram count`: what a model needs, from its configuration alone."""

from __future__ import annotations

import click

from laminogram.cli.options import DTYPES


@click.command(name="count", short_help="Size, memory and cost of a model, from its config alone.")
@click.argument("config")
@click.option(
    "--context",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="How many tokens attention looks at, for FLOPs a token.",
)
@click.option(
    "--dtype",
    type=click.Choice(list(DTYPES)),
    metavar="fp32|bf16|fp16",
    default="bf16",
    show_default=True,
    help="Precision of the cache.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def command(config: str, context: int, dtype: str, as_json: bool) -> None:
    """Count parameters by part, memory, cache or state and FLOPs a token of a model.

    CONFIG is a config.json, a model's directory, a .pth or .safetensors file, a bundled name, or a
    hub id, of which only config.json is downloaded. No weight is read.

    \b
    Examples:
      laminogram count tiny-llama
      laminogram count ./config.json --context 8192
      laminogram count owner/name --json
    """
    from laminogram.probe.count import count

    found = count(config, precision=dtype, context=context)
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps(asdict(found.card) | {"cost": asdict(found.cost)}, indent=2))
    else:
        click.echo(str(found))
