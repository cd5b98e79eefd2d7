"""Pages inside a notebook: a frame of their own, which sees nothing of the notebook or the network.

The frame is sandboxed: its script runs without an origin, its page's policy forbids every load.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import laminogram
from laminogram.errors import ConfigError
from laminogram.report.gallery import pictures_page
from laminogram.report.manifest import study_manifest
from laminogram.report.page_data import study_payload
from laminogram.report.pooling import MAX_COLUMNS
from laminogram.report.study import study_page
from laminogram.studies.card import FIELDS
from laminogram.studies.recording import ModelRecord, record_from_gram
from laminogram.studies.study import Study

HEIGHTS = {"lens": 860, "attention": 980, "similarity": 940, "massive": 1080, "model_map": 760}
_HEIGHT = 720
MOMENTS, COLUMNS = 64, 256
"""Of a gram a notebook holds so many tokens and columns at most: files of notebooks grow."""


def frame(page: str, height: int = _HEIGHT) -> str:
    """Return a page of this package as an HTML fragment: a sandboxed frame that holds all of it."""
    held = html.escape(page.encode("utf-8", "replace").decode("utf-8"), quote=True)
    return (
        f'<iframe sandbox="allow-scripts allow-downloads" srcdoc="{held}" loading="lazy" '
        f'title="laminogram" width="100%" height="{int(height)}" frameborder="0"></iframe>'
    )


def eeg_frame(study: Study, columns: int = MAX_COLUMNS) -> str:
    """Return a study, or an EEG, as an HTML fragment: its page, pooled as in a file."""
    payload = study_payload(study, columns)
    # No table stands beside a page in a notebook, so no link leads to one.
    manifest = study_manifest(study, payload, {}, None)
    return frame(study_page(study, payload, {}, manifest, manifest_file="", kicker="EEG"), 900)


def gram_frame(gram: Any) -> str:
    """Return the first text of a gram as an EEG of its first site that has tokens and channels.

    At most `MOMENTS` tokens and `COLUMNS` columns are held, so the fragment stays bounded; a gram
    without such a site is shown as its table.
    """
    layers = 1 + max((layer for layer, _ in gram.step_layers.values()), default=0)
    card = SimpleNamespace(**dict.fromkeys(FIELDS, 0))
    card.layers, card.parameters, card.bytes_by_precision = layers, {}, {}
    texts = gram.token_texts
    text = "".join(texts[0]) if texts is not None and texts[0] is not None else ""
    for site in gram.sites:
        try:
            record = record_from_gram(gram, name="gram", card=card, text=text, site=site)
        except ConfigError:
            continue
        return eeg_frame(Study.of([_shortened(record)], text), COLUMNS)
    return str(gram._repr_html_())


def _shortened(record: ModelRecord) -> ModelRecord:
    """The first `MOMENTS` tokens; statistics and peaks are of all, but for peaks beyond them."""
    texts, spans = record.token_texts, record.spans
    return replace(
        record,
        values=record.values[:, :MOMENTS],
        token_ids=record.token_ids[:MOMENTS],
        token_texts=None if texts is None else texts[:MOMENTS],
        spans=None if spans is None else spans[:MOMENTS],
        prompt_length=min(record.prompt_length, MOMENTS),
        peaks=tuple(peak for peak in record.peaks if peak.token < MOMENTS),
    )


def fragment(pictures: Any | Sequence[Any]) -> str:
    """Return pictures, results of studies, a study or a gram as an HTML fragment for a notebook."""
    if type(pictures).__name__ == "Gram":
        return gram_frame(pictures)
    if isinstance(pictures, Study):
        return eeg_frame(pictures)
    listed = list(pictures) if isinstance(pictures, list | tuple) else [pictures]
    kinds = {name: module.rpartition(".")[2] for module, name in laminogram._SHOWN.items()}
    names = [getattr(one, "kind", None) or kinds.get(type(one).__name__, "") for one in listed]
    return frame(pictures_page(listed), max(HEIGHTS.get(name, _HEIGHT) for name in names))
