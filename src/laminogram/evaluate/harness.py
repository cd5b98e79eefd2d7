"""lm-evaluation-harness as it is installed, fed with documents of this machine.

Prompts, filters, metrics and their aggregation are the harness' own, so that names and numbers are
the same; its data sets, its models and its caches are not used, and nothing is downloaded.
The harness: EleutherAI/lm-evaluation-harness, read and run at 0.4.13.
"""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from laminogram.errors import ConfigError
from laminogram.evaluate.documents import Document, files_of, find_folder, find_split, read_rows

FEWSHOT_SEED = 1234
"""What the harness draws examples with unless told otherwise."""


_USES = ("training", "validation", "test")


@dataclass(frozen=True)
class Source:
    """Where a task is defined in the harness and where its documents lie.

    home: the folder of its definition among the harness' tasks. folders: names its data folder may
    have. ready: fields by which rows show that the harness' `process_docs` was applied to them.
    renamed: fields under another name than the harness reads.
    """

    home: str
    folders: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)


SOURCES = {
    "arc_challenge": Source("arc"),
    "arc_easy": Source("arc"),
    "cola": Source("glue", ("glue_cola",)),
    "gsm8k": Source("gsm8k"),
    "hellaswag": Source("hellaswag", ready=("query", "choices"), renamed={"gold": "label"}),
    "lambada_openai": Source("lambada"),
    "rte": Source("glue", ("glue_rte",)),
    "sst2": Source("glue", ("glue_sst2",)),
    "wikitext": Source("wikitext", ("wikitext2",), renamed={"text": "page"}),
    "winogrande": Source("winogrande"),
    "wnli": Source("glue", ("glue_wnli",)),
}
"""Tasks that are found at once; for another the harness reads its whole index, which takes long."""


def local_task(name: str, data: Path, shots: int | None = None) -> Any:
    """A task of the harness over local files: its `ConfigurableTask`, named `name`.

    name: a task of the harness, with `-PART` for a part of its documents (`evaluate.documents`).
    shots: examples in each prompt; None is the task's own number. ConfigError for a task or files
    that do not exist.
    """
    base, _, part = name.partition("-")
    source = SOURCES.get(base, Source(""))
    folder = find_folder(data, (base, *source.folders))  # at once; the harness' index takes long
    config = _definition(base, source)
    paths = {use: _path(folder, config.get(f"{use}_split"), part, use) for use in _USES}
    evaluated = "test" if paths["test"] else "validation"
    if paths[evaluated] is None:
        wanted = f" ending in _{part}" if part else ""
        raise ConfigError(
            f"{name} needs a file of validation or test documents{wanted} in {folder}, which has "
            f"{files_of(folder)}"
        )
    documents: dict[str, list[Document]] = {}
    for use, path in paths.items():
        if path is None:
            config[f"{use}_split"] = None
        else:
            documents[config[f"{use}_split"]] = [_renamed(row, source) for row in read_rows(path)]
    first = next(iter(documents[config[f"{evaluated}_split"]]), None)
    if first is None:
        raise ConfigError(f"{paths[evaluated]} holds no document")
    if config.get("fewshot_split") not in documents:
        config["fewshot_split"] = None
    if source.ready and all(one in first for one in source.ready):
        config.pop("process_docs", None)
    return configured(config | {"task": name}, documents, shots)


def configured(
    config: Mapping[str, Any], documents: Mapping[str, list[Document]], shots: int | None = None
) -> Any:
    """A `ConfigurableTask` of the harness from its fields and the documents of each split."""
    api = harness("lm_eval.api.task")
    datasets = harness("datasets")

    def local(**_: Any) -> dict[str, Any]:
        return {split: datasets.Dataset.from_list(rows) for split, rows in documents.items()}

    named = {"dataset_path", "dataset_name", "dataset_kwargs", "tag", "group", "task_list"}
    own = {key: value for key, value in config.items() if key not in named}
    if shots is not None:
        own["num_fewshot"] = shots
    if (own.get("num_fewshot") or 0) > 0 and not own.get("training_split"):
        raise ConfigError(f"{own['task']} takes examples from its training documents: none is here")
    with quiet():
        task = api.ConfigurableTask(config={**own, "custom_dataset": local})
        task.set_fewshot_seed(FEWSHOT_SEED)
    return task


def harness(module: str) -> Any:
    """A module of the harness; ConfigError says how to install it."""
    try:
        with quiet():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"tasks need lm-evaluation-harness ({error.name} is missing): "
            "pip install 'laminogram[eval]'"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the harness' log of what it chose by default, its bars, its libraries' warnings."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _definition(name: str, source: Source) -> dict[str, Any]:
    """The fields of a task as the harness defines them."""
    root = Path(harness("lm_eval.tasks").__file__).parent
    with quiet():
        index = harness("lm_eval.tasks").TaskManager(
            include_path=root / source.home, include_defaults=False
        )
        entry = index.task_index.get(name)
        if entry is None or entry.yaml_path is None:
            raise ConfigError(
                f"no task is named {name!r}; known at once are {', '.join(SOURCES)}, and any other "
                "of lm-evaluation-harness by its name there"
            )
        loaded = harness("lm_eval.tasks._yaml_loader").load_yaml(entry.yaml_path)
    if "class" in loaded or "group" in loaded or loaded.get("unsafe_code"):
        raise ConfigError(f"{name} is a group or runs code of its own: name single, plain tasks")
    return dict(loaded)


def _path(folder: Path, split: str | None, part: str, use: str) -> Path | None:
    """The file of a split, None where it has none. A part is of what is evaluated: examples come
    from all training documents."""
    return None if split is None else find_split(folder, split, "" if use == "training" else part)


def _renamed(row: Document, source: Source) -> Document:
    if not set(source.renamed) & set(row):
        return row
    return {source.renamed.get(key, key): value for key, value in row.items()}


def version() -> str | None:
    """The version of the harness; None where it is not installed."""
    try:
        return metadata.version("lm_eval")
    except metadata.PackageNotFoundError:
        return None
