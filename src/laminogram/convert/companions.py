"""What travels with the weights: tokenizer, chat template, generation settings, licence.

A tokenizer that only the source's family reads from its files (a rank file) is written in the form
that all programs read. Whatever travels is read back as the target's, and left out where it would
give other tokens.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from laminogram.checkpoint.apply import companions, folder_of
from laminogram.checkpoint.write import write_text
from laminogram.convert.prepare import Prepared
from laminogram.errors import LaminogramError
from laminogram.tokenizers import Tokenizer, find_tokenizer

_SETTINGS, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
# Files from which ids come; the others say how they are used.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")
_TEXTS = (
    "The river ran down to the sea.",
    " It's 1234.5 metres wide,\n\nisn't it?\t",
    "naïve café, Straße, 猫が好き, 人工智能, 🙂",
    "def f(x):\n    return x ** 2\n",
)


def travel(prepared: Prepared, folder: Path) -> list[str]:
    """Copy what belongs to the model into `folder`; tell what did not come along, or came
    otherwise, a line each."""
    source = folder_of(prepared.path)
    files = companions(prepared.path)
    same_family = prepared.form.family is prepared.described.family
    before = None if same_family else _read(prepared, prepared.path, source=True)
    remarks = []
    ranks = [file for file in files if file.suffix == ".tiktoken"]
    unread = not same_family and not (source / "tokenizer.json").is_file()
    rewritten = unread and before is not None and hasattr(before, "inner")
    for file in files:
        if rewritten and (file in ranks or file.name == "tokenizer.model"):
            remarks.append(f"{file.name} is written as tokenizer.json")
            continue
        target = folder / file
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source / file, target)
    if rewritten and before is not None:
        before.save(folder)
    if not same_family:
        remarks += _without_code(folder)
        remarks += _keep_template(prepared, folder)
        remarks += _checked(prepared, folder, before)
    return remarks


def _read(prepared: Prepared, path: Path, *, source: bool) -> Tokenizer | None:
    """The tokenizer in a folder as the source's or the target's family reads it."""
    config = prepared.described.config
    family = prepared.described.family if source else prepared.form.family
    try:
        return find_tokenizer(
            path,
            bos=config.bos_token_id,
            eos=config.eos_token_ids,
            habits=family.text,
            vocab_size=config.vocab_size,
        ).tokenizer
    except LaminogramError:
        return None


def _without_code(folder: Path) -> list[str]:
    """Settings that name the source's own code, which does not travel, name the general class."""
    file = folder / _SETTINGS
    if not file.is_file():
        return []
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return [f"{_SETTINGS} is no readable JSON"]
    if not isinstance(settings, dict) or "auto_map" not in settings:
        return []
    del settings["auto_map"]
    named = settings.pop("tokenizer_class", None)
    if (folder / "tokenizer.json").is_file():
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_text(file, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    return [f"{_SETTINGS} no longer names {named}, which is code and does not travel"]


def _keep_template(prepared: Prepared, folder: Path) -> list[str]:
    """The chat template that the source's family has by habit, as a file."""
    habit = prepared.described.family.text.chat
    settings = folder / _SETTINGS
    has_own = settings.is_file() and "chat_template" in settings.read_text(encoding="utf-8")
    if habit is None or has_own or (folder / _TEMPLATE).exists():
        return []
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        return []
    write_text(folder / _TEMPLATE, habit)
    return [f"the family's chat template is written as {_TEMPLATE}"]


def _checked(prepared: Prepared, folder: Path, before: Tokenizer | None) -> list[str]:
    """Take the vocabulary away again where the target's programs would read other ids from it."""
    found = [name for name in _VOCABULARIES if (folder / name).is_file()]
    found += [file.name for file in folder.glob("*.tiktoken")]
    if not found:
        return [] if before is None else ["the tokenizer does not travel: it lies in no file here"]
    after = _read(prepared, folder, source=False)
    if before is not None and after is not None and _alike(before, after):
        return []
    listed = ", ".join(found)
    if before is None:
        return [f"{listed}: could not be read here, so they are copied without a check"]
    for name in found:
        (folder / name).unlink()
    return [
        f"{listed} left out: the files of a {prepared.form.family.name} cannot say this tokenizer, "
        "whose habits stand in its family's code"
    ]


def _alike(before: Tokenizer, after: Tokenizer) -> bool:
    return all(before.encode(text) == after.encode(text) for text in _TEXTS)
