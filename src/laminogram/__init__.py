"""laminogram sees, measures and rewires the layers of language models.

    import laminogram
    stack = laminogram.load("tiny-rwkv4")
    stack.record("The river ran down to the sea.", sites=["ffn_out"])

Everything public is imported when first used, so that `import laminogram` and the command line's
help need no torch.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from laminogram import outliers as outliers
    from laminogram import plans as plans
    from laminogram import studies as studies
    from laminogram.plans import Plan as Plan
    from laminogram.probe import edits as edits
    from laminogram.probe.edits import Edit as Edit
    from laminogram.probe.gram import Gram as Gram
    from laminogram.probe.statistics import Measurement as Measurement
    from laminogram.view import View as View
    from laminogram.view import load as load

__version__ = "0.1.0"

_HOMES = {
    "Edit": "laminogram.probe.edits",
    "Gram": "laminogram.probe.gram",
    "Measurement": "laminogram.probe.statistics",
    "Plan": "laminogram.plans",
    "View": "laminogram.view",
    "load": "laminogram.view",
}
_ROOMS = {
    "edits": "laminogram.probe.edits",
    "outliers": "laminogram.outliers",
    "plans": "laminogram.plans",
    "studies": "laminogram.studies",
}

__all__ = [
    "Edit",
    "Gram",
    "Measurement",
    "Plan",
    "View",
    "edits",
    "load",
    "outliers",
    "plans",
    "studies",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(_ROOMS[name])
    raise AttributeError(f"laminogram has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


# What a notebook shows as a picture, by module: registered by name, which imports nothing.
_SHOWN = {
    "laminogram.studies.lens": "Lens",
    "laminogram.studies.attention": "AttentionMaps",
    "laminogram.studies.similarity": "Similarity",
    "laminogram.studies.massive": "Massive",
    "laminogram.studies.model_map": "ModelMap",
    "laminogram.studies.next_token": "NextToken",
    "laminogram.studies.compare.result": "Comparison",
    "laminogram.studies.outlier_report.report": "OutlierReport",
    "laminogram.studies.painters.result": "Painters",
    "laminogram.report.picture": "Picture",
    "laminogram.probe.gram": "Gram",
    "laminogram.studies.study": "Study",
}


def _show_in_notebooks() -> None:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    formatters = getattr(getattr(shell, "display_formatter", None), "formatters", {})
    if "text/html" in formatters:
        for module, name in _SHOWN.items():
            formatters["text/html"].for_type_by_name(module, name, _fragment)


def _fragment(result: Any) -> str:
    return str(importlib.import_module("laminogram.report.notebook").fragment(result))


_show_in_notebooks()
