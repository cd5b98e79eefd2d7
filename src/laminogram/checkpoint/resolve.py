"""From what a user types to files on this machine: a bundled name, a path, or a hub id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from laminogram import bundled
from laminogram.errors import CheckpointError

# Weights and tables only: no code; pickles (read without executing anything) where nothing else is.
HUB_FILES = (
    "*.json",
    "*.safetensors",
    "tokenizer.model",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
    "rwkv_vocab_v*.txt",
    "chat_template.jinja",
)
_OLD_WEIGHTS = ("pytorch_model*.bin",)
# The same weights once more, as some owners' own programs read them.
_TWICE = ("consolidated*", "original/*")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Resolved:
    """Where a model lies (a directory or one file), and what to call it."""

    path: Path
    name: str


def resolve(path_or_name: str | Path, *, revision: str | None = None) -> Resolved:
    """Finds a bundled model, one of a clone's zoo, a directory, a file, or downloads a hub id into
    the user's cache.

    CheckpointError says what was tried; the hub is asked only for `owner/name`.
    """
    text = str(path_or_name)
    refuse_unknown(text)
    if text in (*bundled.names(), *bundled.zoo()):
        return Resolved(bundled.path(text), text)
    path = Path(text).expanduser()
    if path.exists():
        return Resolved(path, path.stem if path.is_file() else path.resolve().name)
    try:
        folder = _download(text, revision, HUB_FILES)
        if not any(folder.glob("*.safetensors")):
            folder = _download(text, revision, HUB_FILES + _OLD_WEIGHTS)
    except _not_there() as error:
        raise _unreachable(text, error) from error
    return Resolved(folder, text)


# huggingface_hub is imported where a hub id is asked for: it takes a quarter of a second.


def _not_there() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    return LocalEntryNotFoundError, OSError, HfHubHTTPError, HFValidationError


def refuse_unknown(text: str) -> None:
    """CheckpointError for what can be no model's name: neither bundled, nor a path that exists, nor
    the form of a hub id. Needs no torch and no network."""
    if text not in (*bundled.names(), *bundled.zoo()) and not Path(text).expanduser().exists():
        _check_hub_id(text)


def _download(text: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            text, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(_TWICE)
        )
    )


def fetch_configuration(text: str, *, revision: str | None = None) -> Path:
    """The config.json of a hub id, from the user's cache or downloaded; nothing else of it."""
    from huggingface_hub import hf_hub_download

    _check_hub_id(text)
    try:
        return Path(hf_hub_download(text, "config.json", revision=revision))
    except _not_there() as error:
        raise _unreachable(text, error) from error


def _check_hub_id(text: str) -> None:
    if not _HUB_ID.fullmatch(text) or text.startswith("."):
        known = ", ".join([*bundled.names(), *bundled.zoo()]) or "none"
        raise CheckpointError(
            f"{text!r} is no file or directory here, no bundled model (there are: {known}) and no "
            "hub id of the form owner/name"
        )


def _unreachable(text: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
    return CheckpointError(
        f"{text!r} is no file or directory here, and as a hub id it is neither in the local "
        f"cache nor could it be downloaded ({type(error).__name__}: {reason})"
    )
