"""Which files in a model's folder are its tokenizer, and who reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from laminogram.families.base import TextHabits
from laminogram.tokenizers import fast, gpt2, sentencepiece, tiktoken, wordpiece, world
from laminogram.tokenizers.base import Manner, Tokenizer
from laminogram.tokenizers.chat import ChatTemplate
from laminogram.tokenizers.settings import read_settings


@dataclass(frozen=True)
class Found:
    """A tokenizer, or why there is none and what would help (a clause that follows a colon)."""

    tokenizer: Tokenizer | None = None
    missing: str = ""


def load_tokenizer(
    path: str | Path,
    *,
    bos: int | None = None,
    eos: tuple[int, ...] = (),
    habits: TextHabits | None = None,
    vocab_size: int | None = None,
) -> Tokenizer | None:
    """The tokenizer of a model's directory (or of a file's), None where it has none.

    bos, eos: the ids that the model's configuration names. habits: what the family does where the
    files do not say. vocab_size: rows of the model's embedding, by which a file without a tokenizer
    beside it is given the one of its family. CheckpointError names a file that is damaged.
    """
    return find_tokenizer(path, bos=bos, eos=eos, habits=habits, vocab_size=vocab_size).tokenizer


def find_tokenizer(
    path: str | Path,
    *,
    bos: int | None = None,
    eos: tuple[int, ...] = (),
    habits: TextHabits | None = None,
    vocab_size: int | None = None,
) -> Found:
    """`load_tokenizer`, saying what is missing where it finds none."""
    folder = Path(path)
    folder = folder if folder.is_dir() else folder.parent
    habits = habits or TextHabits()
    manner = Manner(bos, eos, settings=read_settings(folder))
    found = _beside(folder, manner, habits)
    if found.tokenizer is None and not found.missing:
        found = _by_size(folder, manner, habits, vocab_size)
    if found.tokenizer is None:
        return found
    tokenizer = found.tokenizer
    source = manner.settings.template
    usual = next((chat for size, chat in habits.chats if size == vocab_size), habits.chat)
    tokenizer.manner = replace(
        manner,
        prefix=_prefix(tokenizer, habits),
        template=_template(source or usual),
        template_begins=source is not None,
        turn_ends=() if source else habits.turn_ends,
    )
    return Found(tokenizer)


def _beside(folder: Path, manner: Manner, habits: TextHabits) -> Found:
    """The tokenizer of the files in a folder; the first format that has its files there."""
    if (folder / fast.FILE).is_file():
        return Found(fast.read_json(folder / fast.FILE, manner))
    for file in sorted(folder.glob("*.tiktoken")):
        return Found(tiktoken.read_tiktoken(file, manner, habits.tiktoken))
    model = folder / sentencepiece.FILE
    if model.is_file() and tiktoken.is_tiktoken(model):
        return Found(tiktoken.read_tiktoken(model, manner, habits.tiktoken))
    if model.is_file():
        if not sentencepiece.is_installed():
            return Found(missing=f"{sentencepiece.NEEDED} adds what reads its {model.name}")
        return Found(sentencepiece.read_sentencepiece(model, manner, habits.sentencepiece_special))
    for file in sorted(folder.glob(world.PATTERN)):
        return Found(world.read_world(file, manner))
    if (folder / gpt2.VOCABULARY).is_file() and (folder / gpt2.MERGES).is_file():
        return Found(gpt2.read_gpt2(folder, manner))
    # Where models share a vocabulary, a file of that name lists it once more, in another form.
    if (folder / wordpiece.FILE).is_file() and not habits.vocabularies:
        return Found(wordpiece.read_wordpiece(folder / wordpiece.FILE, manner))
    return Found()


def _by_size(folder: Path, manner: Manner, habits: TextHabits, vocab_size: int | None) -> Found:
    """The tokenizer that a family's models of this vocabulary size share."""
    shared = next((one for one in habits.vocabularies if one.size == vocab_size), None)
    if shared is None:
        return Found()
    for place in (folder / shared.file, _packaged(shared.package, shared.file)):
        if place is not None and place.is_file():
            read = fast.read_json if place.suffix == ".json" else world.read_world
            return Found(read(place, manner))
    return Found(
        missing=f"a vocabulary of {vocab_size} is that of {shared.file}, which {shared.source}: "
        "put that file beside the model"
    )


def _packaged(package: str | None, name: str) -> Path | None:
    """A data file of an installed package, which is not imported."""
    spec = find_spec(package) if package else None
    places = (spec.submodule_search_locations or ()) if spec is not None else ()
    return next((Path(place) / name for place in places if (Path(place) / name).is_file()), None)


def _prefix(tokenizer: Tokenizer, habits: TextHabits) -> tuple[str, ...] | None:
    """What texts begin with: the one place that decides it.

    First what tokenizer_config.json says of `add_bos_token`; then a file that says it itself
    (tokenizer.json by its post-processing: None); else the family's habit.
    """
    said = tokenizer.manner.settings.flag("add_bos_token")
    if said is None and isinstance(tokenizer, fast.FastTokenizer) and tokenizer.complete:
        return None
    if said is None and habits.prefixes:
        known = (
            names
            for names in habits.prefixes
            if all(tokenizer.id_of(name) is not None for name in names)
        )
        return next(known, habits.prefixes[0])  # encoding says which of them is missing
    wanted = habits.bos if said is None else said
    name = None if tokenizer.bos is None else tokenizer.name_of(tokenizer.bos)
    return (name,) if wanted and name is not None else ()


def _template(source: str | None) -> ChatTemplate | None:
    return None if source is None else ChatTemplate(source)
