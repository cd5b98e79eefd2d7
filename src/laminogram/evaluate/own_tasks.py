"""Tasks for small models, as tasks of the harness: skills, and questions out of a text.

| task | asks | right by chance |
| --- | --- | --- |
| addition, copying, sorting | the whole answer, as the likeliest text | never |
| last_word | the last word of a passage | never |
| continuation | which of four texts goes on | one in four |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laminogram.errors import ConfigError
from laminogram.evaluate.documents import Document, read_texts
from laminogram.evaluate.harness import configured
from laminogram.evaluate.passages import continuations, last_words
from laminogram.evaluate.problems import SKILLS, held_out_problems

PROBLEMS = 500
"""Problems of each skill."""
OF_TEXT = ("last_word", "continuation")
OWN = (*SKILLS, *OF_TEXT)


def own_task(name: str, text_file: Path | None = None) -> Any:
    """One of `OWN` as a `ConfigurableTask`; ConfigError where it needs a text and has none."""
    if name in SKILLS:
        problems = held_out_problems(name, PROBLEMS)
        rows = [{"prompt": one.prompt, "answer": one.answer} for one in problems]
        return _likelihood(name, "prompt", "answer", rows, ("acc",))
    if name not in OF_TEXT:
        raise ConfigError(f"no task of our own is named {name!r}; there are {', '.join(OWN)}")
    if text_file is None:
        raise ConfigError(f"{name} is made from a text: give --text-file")
    texts = read_texts(text_file)
    if name == "last_word":
        asked = "{{' ' + text.split(' ')[-1]}}"
        given = "{{text.split(' ')[:-1]|join(' ')}}"
        return _likelihood(name, given, asked, last_words(texts), ("acc", "perplexity"))
    return _task(
        name,
        continuations(texts),
        output_type="multiple_choice",
        doc_to_text="query",
        doc_to_target="label",
        doc_to_choice="choices",
        metric_list=[_metric("acc", "mean"), _metric("acc_norm", "mean")],
    )


def _likelihood(
    name: str, text: str, target: str, rows: list[Document], metrics: Sequence[str]
) -> Any:
    aggregations = {"acc": "mean", "perplexity": "perplexity"}
    return _task(
        name,
        rows,
        output_type="loglikelihood",
        doc_to_text=text,
        doc_to_target=target,
        metric_list=[_metric(one, aggregations[one]) for one in metrics],
    )


def _task(name: str, rows: list[Document], **fields: Any) -> Any:
    config = {"task": name, "test_split": "test", "metadata": {"version": 1.0}, **fields}
    return configured(config, {"test": rows})


def _metric(name: str, aggregation: str) -> dict[str, Any]:
    return {
        "metric": name,
        "aggregation": aggregation,
        "higher_is_better": name != "perplexity",
    }
