"""The manifest of a report: what was asked, what ran, and the hash of every file beside it."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from laminogram.studies.study import Study

PACKAGES = ("laminogram", "torch", "numpy", "pyarrow")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a study's numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def text_hash(text: str) -> str:
    """Return the SHA-256 of the text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def study_manifest(
    study: Study,
    payload: Mapping[str, Any],
    files: Mapping[str, list[str]],
    data: Path | None,
    kind: str = "study",
    beside: str = "data/",
) -> dict[str, Any]:
    """Return the manifest of a study whose tables stand in the folder `data`, if they do.

    `beside` is how a file there is named from where the manifest stands.
    """
    return {
        "kind": f"laminogram {kind}",
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions(),
        "text": study.text,
        "text_sha256": text_hash(study.text),
        "site": study.site,
        "scale": payload["scale"],
        "lockstep": study.rule,
        "models": [
            {
                "name": record.name,
                "tokens": len(record.token_ids),
                "prompt_tokens": record.prompt_length,
                "starts_with_bos": record.starts_with_bos,
                "plan": record.manifest.get("plan"),
                "kv": record.manifest.get("kv"),
                "card": record.card,
                "gram": record.manifest,
            }
            for record in study.records
        ],
        "pictures": {
            picture: [f"{beside}{name}" for name in names] for picture, names in files.items()
        },
        "files": {
            f"{beside}{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (sorted(data.iterdir()) if data is not None else ())
        },
    }


def manifest_json(manifest: Mapping[str, Any]) -> str:
    """Return the manifest as readable JSON; what JSON has no form for is written as text."""
    return json.dumps(manifest, indent=2, ensure_ascii=True, default=str) + "\n"
