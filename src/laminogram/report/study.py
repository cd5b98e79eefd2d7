"""`run_study`: models read a text, and a folder with one page, its tables and a manifest appears.

The models run on the floor below (`laminogram.studies.study`); this one draws and writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laminogram.report.folder import free_folder, new_folder, refuse_existing
from laminogram.report.html import build_page, provenance_html, text_html
from laminogram.report.manifest import manifest_json, study_manifest
from laminogram.report.page_data import study_payload
from laminogram.report.tables import write_study_tables
from laminogram.report.words import study_slots
from laminogram.studies.study import Study, read_text, study_models

DEFAULT_FOLDER = "laminogram-study"


def run_study(
    models: Sequence[Any] | None = None,
    prompt: str | None = None,
    text_file: str | Path | None = None,
    out: str | Path | None = None,
    dtype: Any = None,
    device: Any = None,
    new_tokens: int = 0,
    progress: bool = True,
    site: str = "ffn_out",
    plan: Any = None,
    kv: str | None = None,
    force: bool = False,
) -> Path:
    """Run the models on the text, write the report and return the path of its index.html.

    `models` are bundled names, paths, hub ids or views; by default the bundled tiny pair.
    `out` must not exist, or with `force` be an earlier report, which is replaced; without it, the
    first free of `laminogram-study`, `laminogram-study-2`, ... in the working directory is taken.
    With a `plan` every model runs its layers in that order; `kv` says what its parallel layers
    remember, `exact` or `averaged`. Raises
    `laminogram.errors.LaminogramError`.
    """
    if out is not None:
        refuse_existing(Path(out), force)  # said before the models run, not after
    text = read_text(prompt, text_file)
    study = study_models(
        models,
        text=text,
        site=site,
        dtype=dtype,
        device=device,
        new_tokens=new_tokens,
        progress=progress,
        plan=plan,
        kv=kv,
    )
    target = free_folder(DEFAULT_FOLDER) if out is None else Path(out)
    return write_study(study, target, force)


def write_study(study: Study, out: str | Path, force: bool = False) -> Path:
    """Write index.html, manifest.json and data/ into the new folder `out`; return index.html.

    The folder appears whole or not at all. Raises `LaminogramError` where `out` exists; with
    `force` only where that is no earlier report.
    """
    target = Path(out)
    payload = study_payload(study)
    with new_folder(target, force) as folder:
        data = folder / "data"
        data.mkdir()
        files = write_study_tables(study, data)
        manifest = study_manifest(study, payload, files, data)
        (folder / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")
        (folder / "index.html").write_text(
            study_page(study, payload, files, manifest), encoding="utf-8", newline="\n"
        )
    return target / "index.html"


def study_page(
    study: Study,
    payload: Mapping[str, Any],
    files: Mapping[str, list[str]],
    manifest: Mapping[str, Any],
    data: str = "data",
    manifest_file: str = "manifest.json",
    kicker: str = "study",
) -> str:
    """Return the page of a study as HTML text; `kicker` says above its heading what it is.

    `data` and `manifest_file` are where the tables and the manifest lie, seen from the page.
    """
    beside = {picture: [f"{data}/{name}" for name in names] for picture, names in files.items()}
    slots = study_slots(study, payload, beside, manifest["versions"]["laminogram"])
    models = [(model["name"], model["gram"]) for model in manifest["models"]]
    provenance = provenance_html(manifest, models, manifest_file)
    return build_page({**slots, "kicker": text_html(kicker), "provenance": provenance}, payload)
