"""`laminogram evaluate`: tasks and texts under any number of plans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from laminogram.cli.options import changing, keeps_parts, load_view, placement, remembering
from laminogram.cli.tables import print_table

if TYPE_CHECKING:
    from laminogram.evaluate.result import TaskResult
    from laminogram.evaluate.summary import Summary
    from laminogram.evaluate.text import TextScore
    from laminogram.view import View

SKILLS = "addition,copying,sorting"


@click.command(name="evaluate", short_help="Score tasks and texts under any number of plans.")
@click.argument("model")
@click.option(
    "--tasks",
    metavar="A,B",
    help=f"Names of tasks; default: {SKILLS}, or none where only a text is to be scored.",
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
    help="A text (or JSON lines with a field text): its perplexity and the divergence from the "
    "unchanged model; last_word and continuation are made from it.",
)
@click.option(
    "--plan",
    "plans",
    multiple=True,
    help='Order of the layers, such as "0-7, 3x(8), 9-11"; repeatable. The full model always runs.',
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N documents of a task.")
@click.option("--shots", type=click.IntRange(min=0), help="Examples in each prompt of a benchmark.")
@click.option(
    "--bos/--no-bos",
    default=None,
    help="Whether texts begin with the begin-of-text token; default: the tokenizer's habit.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep everything here, item by item; run again after a kill, it goes on where it was.",
)
@changing
@remembering("What parallel layers remember while a task generates")
@placement
def command(
    model: str,
    tasks: str | None,
    data: Path | None,
    text_file: Path | None,
    plans: tuple[str, ...],
    limit: int | None,
    shots: int | None,
    bos: bool | None,
    out: Path | None,
    edits: tuple[str, ...],
    precision: str | None,
    kv: str | None,
    dtype: str | None,
    device: str | None,
) -> None:
    """Score MODEL, and each --plan of it, on tasks and on a text.

    Tasks are those of lm-evaluation-harness, by its names and metrics, and some of our own for
    small models. A plan's share is its score between chance (0) and the full model (1). With --out,
    DIR receives results.jsonl (item by item) and summary.json; without, nothing is written.
    """
    names = tasks if tasks is not None else "" if text_file else SKILLS
    loaded = load_view(model, dtype, device)
    from laminogram.studies.compare import Condition

    condition = Condition(model, precision=precision, kv=kv, edits=edits)
    view = cast("View", condition.of(loaded))
    chosen = [str(view.plan), *(str(view.using(plan=plan).plan) for plan in plans)]
    chosen = list(dict.fromkeys(chosen))
    facts: dict[str, Any] = {}
    keeps_parts(out)
    if names:
        opened = _open([one.strip() for one in names.split(",")], data, text_file, limit, shots)
        facts |= _tasks(view, opened, chosen, bos, out)
    if text_file is not None:
        facts["text"] = _text(view, loaded, text_file, chosen, bos)
    if out is not None:
        _save(view, out, facts)


def _open(names: Sequence[str], *where: Any) -> list[Any]:
    from laminogram.evaluate.tasks import open_task

    data, text_file, limit, shots = where
    return [
        open_task(name, data=data, text_file=text_file, limit=limit, shots=shots)
        for name in names
        if name
    ]


def _tasks(
    view: View, tasks: Sequence[Any], plans: Sequence[str], bos: bool | None, out: Path | None
) -> dict[str, Any]:
    from laminogram.evaluate.evaluate import Manner, evaluate
    from laminogram.evaluate.summary import summarise

    results = evaluate(view, tasks, plans, out=out, manner=Manner(bos=bos))
    summary = summarise(results, plans[0])
    _print_tasks(results, summary)
    long = ("values", "answers", "draws")
    kept = [{k: v for k, v in one.to_json().items() if k not in long} for one in results]
    return {"tasks": kept, "summary": summary}


def _print_tasks(results: Sequence[TaskResult], summary: Summary) -> None:
    lines = {line.label: line for line in summary.lines}
    rows = []
    for one in results:
        low, high = one.intervals[one.main]
        share = lines[one.plan].shares.get(one.task)
        rows.append(
            (
                one.task,
                one.plan,
                one.main,
                f"{one.score:.4g} [{low:.4g}, {high:.4g}]",
                "-" if share is None else str(share),
                f"{1e3 * one.seconds_per_token:.3g}",
            )
        )
    columns = ("task", "plan", "metric", "score [95 %]", "share [95 %]", "ms a token")
    print_table(columns, rows, title="Tasks")
    if any(line.median for line in summary.lines) and len(summary.lines) > 1:
        medians = [(line.label, str(line.median)) for line in summary.lines]
        click.echo()
        print_table(("plan", "median share [95 %]"), medians)
    for note in summary.at_chance:
        click.echo(str(note))


def _text(
    view: View, unchanged: View, path: Path, plans: Sequence[str], bos: bool | None
) -> list[TextScore]:
    from laminogram.evaluate.documents import read_texts
    from laminogram.evaluate.text import score_text

    scores = score_text(view, read_texts(path), plans, reference=unchanged, bos=bos)
    rows = [
        (
            one.plan,
            str(one.perplexity),
            f"{one.bits_per_byte:.4f}",
            str(one.kl_from),
            str(one.kl_to),
            f"{1e3 * one.seconds_per_token:.3g}",
        )
        for one in scores
    ]
    columns = ("plan", "perplexity [95 %]", "bits a byte", "KL from full", "KL to full")
    print_table((*columns, "ms a token"), rows, title=f"{path.name}, {scores[0].tokens} tokens")
    return scores


def _save(view: View, out: Path, facts: dict[str, Any]) -> None:
    from laminogram.evaluate.harness import version
    from laminogram.probe.manifest import manifest, plain
    from laminogram.probe.store import write_json

    out.mkdir(parents=True, exist_ok=True)
    about = manifest(view.facts(), lm_eval=version())
    write_json(out / "summary.json", {"manifest": about, **plain(facts)})
    click.echo(str(out / "summary.json"))
