"""A page of pictures: one offline file, the numbers behind every picture, and a manifest."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laminogram.errors import ConfigError
from laminogram.report.colour import palette
from laminogram.report.folder import new_folder
from laminogram.report.html import build_page, prompt_html, provenance_html, text_html
from laminogram.report.manifest import manifest_json, text_hash, versions
from laminogram.report.picture import Picture, picture_of
from laminogram.report.tables import slug, write_table

ENTRY = "pictures.js"
MAIN = "pictures.html"
STYLES = ("style.css", "pictures.css")


def write_pictures(
    pictures: Sequence[Any],
    out: str | Path,
    facts: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
) -> Path:
    """Write index.html, manifest.json and data/ into the new folder `out`; return index.html.

    `pictures` are pictures or results of studies, drawn in this order with one selection. `facts`
    may name `text` (what was read), `heading`, `lead` and `kind`. The folder appears whole or not
    at all; `force` replaces one that an earlier run wrote. Raises `LaminogramError`.
    """
    drawn = _pictures(pictures)
    told = dict(facts or {})
    target = Path(out)
    with new_folder(target, force=force) as folder:
        data = folder / "data"
        data.mkdir()
        files = _write_tables(drawn, data)
        manifest = _manifest(drawn, told, files, data)
        (folder / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")
        page = pictures_page(drawn, told, files, manifest)
        (folder / "index.html").write_text(page, encoding="utf-8", newline="\n")
    return target / "index.html"


def pictures_page(
    pictures: Sequence[Any],
    facts: Mapping[str, Any] | None = None,
    files: Sequence[Sequence[str]] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> str:
    """Return the page of pictures as HTML text; without `files` it links to no file beside it."""
    drawn = _pictures(pictures)
    told = dict(facts or {})
    linked = files if files is not None else [() for _ in drawn]
    payload = {
        "kind": "pictures",
        "palette": palette(),
        "pictures": [
            {
                "kind": one.kind,
                "title": one.title,
                "subtitle": one.model,
                "caption": one.caption,
                "alt": one.alt,
                "notes": [note for note in one.notes if note],
                "file": slug(f"{one.model}-{one.kind}").lower(),
                "files": list(names),
                "csv": one.csv,
                "data": one.data,
            }
            for one, names in zip(drawn, linked, strict=True)
        ],
    }
    slots = _slots(drawn, told, manifest)
    return build_page(slots, payload, entry=ENTRY, main=MAIN, styles=STYLES)


def _pictures(given: Sequence[Any]) -> list[Picture]:
    if not given:
        raise ConfigError("a page needs at least one picture")
    return [one if isinstance(one, Picture) else picture_of(one) for one in given]


def _slots(
    pictures: Sequence[Picture], facts: Mapping[str, Any], manifest: Mapping[str, Any] | None
) -> dict[str, str]:
    models = list(dict.fromkeys(one.model for one in pictures))
    titles = list(dict.fromkeys(one.title for one in pictures))
    joined, shown = ", ".join(models), ", ".join(title.lower() for title in titles)
    lead = facts.get("lead") or (pictures[0].alt if len(pictures) == 1 else "")
    known = manifest or {"versions": versions()}
    return {
        "version": text_html(known["versions"]["laminogram"]),
        "title": text_html(f"{joined}: {shown}"),
        "kicker": text_html(titles[0] if len(titles) == 1 else "pictures"),
        "heading": text_html(str(facts.get("heading") or joined)),
        "lead": text_html(str(lead)),
        "prompt": prompt_html(str(facts.get("text") or ""), "it"),
        "provenance": provenance_html(
            manifest,
            [(one.model, one.manifest) for one in pictures],
            "manifest.json" if manifest else "",
        ),
    }


def _write_tables(pictures: Sequence[Picture], data: Path) -> list[list[str]]:
    """Write the tables of all pictures; a name that two models share gets the model's name."""
    models = {one.model for one in pictures}
    used: set[str] = set()
    written: list[list[str]] = []
    for one in pictures:
        names: list[str] = []
        for table, columns in one.tables.items():
            name = stem = table if len(models) == 1 else f"{table}-{slug(one.model)}"
            number = 2
            while name in used:
                name, number = f"{stem}-{number}", number + 1
            used.add(name)
            names += write_table(data, name, columns)
        written.append(names)
    return written


def _manifest(
    pictures: Sequence[Picture],
    facts: Mapping[str, Any],
    files: Sequence[Sequence[str]],
    data: Path,
) -> dict[str, Any]:
    text = facts.get("text")
    return {
        "kind": f"laminogram {facts.get('kind') or 'pictures'}",
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions(),
        "text": text,
        "text_sha256": None if text is None else text_hash(str(text)),
        "pictures": [
            {
                "kind": one.kind,
                "model": one.model,
                "alt": one.alt,
                "files": [f"data/{name}" for name in names],
                "study": dict(one.manifest),
            }
            for one, names in zip(pictures, files, strict=True)
        ],
        "files": {
            f"data/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(data.iterdir())
        },
    }
