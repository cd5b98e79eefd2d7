"""Pages inside a notebook: a frame of their own, which sees nothing of the notebook or the network.

The frame is sandboxed: its script runs without an origin, its page's policy forbids every load.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import laminogram
from laminogram.report.gallery import pictures_page

HEIGHTS = {"lens": 860, "attention": 980, "similarity": 940, "massive": 1080, "model_map": 760}
_HEIGHT = 720


def frame(page: str, height: int = _HEIGHT) -> str:
    """Return a page of this package as an HTML fragment: a sandboxed frame that holds all of it."""
    held = html.escape(page.encode("utf-8", "replace").decode("utf-8"), quote=True)
    return (
        f'<iframe sandbox="allow-scripts allow-downloads" srcdoc="{held}" loading="lazy" '
        f'title="laminogram" width="100%" height="{int(height)}" frameborder="0"></iframe>'
    )


def fragment(pictures: Any | Sequence[Any]) -> str:
    """Return pictures, or results of studies, as an HTML fragment for a notebook."""
    listed = list(pictures) if isinstance(pictures, list | tuple) else [pictures]
    kinds = {name: module.rpartition(".")[2] for module, name in laminogram._SHOWN.items()}
    names = [getattr(one, "kind", None) or kinds.get(type(one).__name__, "") for one in listed]
    return frame(pictures_page(listed), max(HEIGHTS.get(name, _HEIGHT) for name in names))
