"""The study: several models read one text, and what every layer answers is kept.

This floor runs the models and measures; `laminogram.report.study` writes the page and the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from laminogram.errors import ConfigError, PlanError
from laminogram.studies.lockstep import (
    RULE_ALONE,
    RULE_CHARACTERS,
    RULE_CONTINUED,
    RULE_INDEX,
    RULE_SAME,
    index_frames,
    lockstep_frames,
)
from laminogram.studies.recording import ModelRecord, record_from_gram

DEFAULT_MODELS = ("tiny-llama", "tiny-rwkv4")
CONTINUATION = 24
"""How far a model goes on by itself after the text where no number is asked for."""
DEFAULT_PROMPT = (
    "What is python? Please tell me in detail what it is, how to use it, how to learn it, "
    "and what advantages and disadvantages it has."
)


@dataclass(frozen=True)
class Study:
    """Records of several models on one text, and the frames in which they are shown together."""

    text: str
    site: str
    records: tuple[ModelRecord, ...]
    frames: tuple[tuple[int, ...], ...]
    """One entry a moment: the token index that each model shows."""
    rule: str
    """How the frames were made, in a sentence."""
    same_tokens: bool

    @classmethod
    def of(cls, records: Sequence[ModelRecord], text: str) -> Study:
        """Join records of the same text; raises `ConfigError` where their sites differ."""
        if not records:
            raise ConfigError("a study needs at least one model")
        sites = {record.site for record in records}
        if len(sites) > 1:
            raise ConfigError(f"a study compares one site; these records hold {sorted(sites)}")
        same = len({record.token_ids for record in records}) == 1
        # Equal ids of different vocabularies are different tokens.
        same = same and len({record.token_texts for record in records}) == 1
        read = {(r.token_ids[: r.prompt_length], r.prompt_texts) for r in records}
        counts = [len(record.token_ids) for record in records]
        spans = [record.spans for record in records]
        if same:
            frames = index_frames(counts)
            rule = RULE_SAME if len(records) > 1 else RULE_ALONE
        elif len(read) == 1:
            frames, rule = index_frames(counts), RULE_CONTINUED
        elif all(spans):
            frames = lockstep_frames([[end for _, end in one] for one in spans if one])
            rule = RULE_CHARACTERS
        else:
            frames, rule = index_frames(counts), RULE_INDEX
        return cls(text, sites.pop(), tuple(records), tuple(frames), rule, same)


def read_text(prompt: str | None, text_file: str | Path | None) -> str:
    """Return the text of a study: the prompt, the file's content, or the default prompt.

    Raises `ConfigError` when both are given, when the text is empty, and when the file cannot be
    read or is not UTF-8.
    """
    if prompt is not None and text_file is not None:
        raise ConfigError("give a prompt or a text file, not both")
    if text_file is not None:
        try:
            text = Path(text_file).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{text_file} is not UTF-8: byte {error.start} cannot be read; convert it first"
            ) from error
        except OSError as error:
            raise ConfigError(f"cannot read the text file {text_file}: {error.strerror}") from error
    else:
        text = DEFAULT_PROMPT if prompt is None else prompt
    if not text.strip():
        raise ConfigError("the text is empty; a study needs at least one token to show")
    return text


def study_models(
    models: Sequence[Any] | None = None,
    *,
    text: str,
    site: str = "ffn_out",
    dtype: Any = None,
    device: Any = None,
    new_tokens: int | None = 0,
    progress: bool = True,
    plan: Any = None,
    kv: str | None = None,
    precisions: Sequence[str] = (),
) -> Study:
    """Run every model on `text` and return the study; entries are names, paths or views.

    With a `plan` (a `Plan` or its text) every model runs its layers in that order; PlanError names
    a model that it does not fit, before any model runs. kv: `exact` or `averaged`, see
    `View.using`.

    No model stands for the bundled pair. With `new_tokens`, each model goes on after the text for
    so many tokens, as `View.generate` does by default, and those are recorded too; None stands for
    `CONTINUATION`, or fewer where the context ends, none where a model does not generate. With
    `precisions` every model is read once in each, all of them on the tokens of the first. The
    progress bar is silent when the output is no terminal.
    """
    if new_tokens is not None and new_tokens < 0:
        raise ConfigError(f"new_tokens counts tokens to generate; {new_tokens} is negative")
    chosen = list(models or DEFAULT_MODELS)
    conditions = {name: given for name, given in (("plan", plan), ("kv", kv)) if given is not None}
    if conditions and len(chosen) > 1:
        for entry in chosen:  # opening maps the weights; nothing is held
            _under(_view(entry, dtype, device), conditions)
    if precisions and dtype is not None:
        raise ConfigError("give one dtype, or precisions to compare, not both")
    kinds: Sequence[str | None] = tuple(dict.fromkeys(precisions)) or (None,)
    records: list[ModelRecord] = []
    with tqdm(
        total=len(chosen) * len(kinds),
        unit="model",
        disable=None if progress else True,
        leave=False,
    ) as bar:
        for entry in chosen:
            first: ModelRecord | None = None
            for kind in kinds:
                view = _under(_view(entry, kind or dtype, device), conditions)
                name = _free_name(view.name if len(kinds) == 1 else f"{view.name} {kind}", records)
                bar.set_description(f"reading with {name}")
                records.append(_record(view, name, text, site, new_tokens, first))
                first = first or records[-1]
                bar.update()
    return Study.of(records, text)


def _view(entry: Any, dtype: Any, device: Any) -> Any:
    if not isinstance(entry, str | Path):
        return entry if dtype is None else entry.using(precision=dtype)
    # Imported here: it brings torch, which `laminogram --help` and saved grams do without.
    from laminogram import load

    options = {"dtype": dtype, "device": device}
    return load(entry, **{key: value for key, value in options.items() if value is not None})


def _under(view: Any, conditions: Mapping[str, Any]) -> Any:
    """The view under a plan; PlanError names the model."""
    if not conditions:
        return view
    try:
        return view.using(**conditions)
    except PlanError as error:
        raise PlanError(f"{view.name}: {error}") from error


def _free_name(name: str, earlier: Sequence[ModelRecord]) -> str:
    taken = {record.name for record in earlier}
    free, again = name, 2
    while free in taken:
        free, again = f"{name} ({again})", again + 1
    return free


def _record(
    view: Any,
    name: str,
    text: str,
    site: str,
    new_tokens: int | None,
    leader: ModelRecord | None,
) -> ModelRecord:
    """One model's record; with a `leader`, of the tokens that the leader read and generated."""
    if view.tokenizer is None:
        raise ConfigError(f"{view.name} has no tokenizer, so it cannot read a text")
    card = view.card()
    if leader is None:
        more = _continuation(view, int(view.tokens(text).lengths[0]), new_tokens)
        # The last token that a model generates is never read by it: one more is asked for.
        gram = view.record(text, sites=(site,), new_tokens=more + 1 if more else 0)
        prompt_length = int(gram.prompt_lengths[0])
    else:
        gram = view.record(list(leader.token_ids), sites=(site,))
        prompt_length = leader.prompt_length
        gram.manifest["tokens_of"] = leader.name
    return record_from_gram(
        gram,
        name=name,
        card=card,
        text=text,
        site=site,
        losses=_losses(view, text) if prompt_length > 1 else None,
        bos_token_id=view.config.bos_token_id,
        prompt_length=prompt_length,
    )


def _continuation(view: Any, length: int, new_tokens: int | None) -> int:
    """How many tokens the model generates after `length` ones; ConfigError past its context."""
    limit = view.config.longest_text
    more = new_tokens
    if more is None:
        more = CONTINUATION if view.config.causal else 0
        more = more if limit is None else max(0, min(more, limit - length))
    if limit is not None and length + more > limit:
        raise ConfigError(
            f"the text and {more} new tokens are {length + more} tokens for {view.name}, "
            f"which was made for {limit}; shorten the text"
        )
    return more


def _losses(view: Any, text: str) -> Any:
    """Return nats per predicted token, or None for a model that also reads what comes after."""
    if not view.config.causal:
        return None
    per_token = view.loss(text).per_token[0]
    return per_token.float().cpu().numpy()
