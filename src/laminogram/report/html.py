"""One offline HTML file: template, style, modules and payload inlined, everything escaped.

The page's Content-Security-Policy names the hash of its one script and its one style, so that
nothing else runs or loads, whatever a prompt or a model's name contains.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VIEWER = Path(__file__).parent / "viewer"
STUDY_MODULE = "main.js"

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([A-Za-z0-9_-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const|let) )", re.MULTILINE)
_SLOT = re.compile(r"\{\{([a-z_]+)\}\}")


def inline_modules(entry: str = STUDY_MODULE, folder: Path = VIEWER) -> str:
    """Return the ES module `entry` and all that it imports as one module, dependencies first.

    The modules keep to named imports on lines of their own and to names that are unique among
    them, so joining them needs no more than dropping `import` lines and the word `export`.
    """
    done: dict[str, str] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            raise ValueError(f"viewer modules import each other in a ring: {' -> '.join(trail)}")
        if name in done:
            return
        source = (folder / name).read_text(encoding="utf-8")
        for needed in _IMPORT.findall(source):
            visit(needed, (*trail, name))
        done[name] = _EXPORT.sub("", _IMPORT.sub("", source)).strip()

    visit(entry, ())
    joined = "\n\n".join(f"// {name}\n{source}" for name, source in done.items())
    if re.search(r"</script|<!--", joined, re.IGNORECASE):
        raise ValueError("a viewer module holds a text that would end its script element")
    return f"\n{joined}\n"


def script_json(data: Any) -> str:
    """Return JSON that is safe inside a script element: ASCII only, with no `<`, `>` or `&`.

    Unpaired surrogates stay escapes; numbers must be finite (see `plain_numbers`).
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def text_html(text: str) -> str:
    """Return `text` as HTML character data; what UTF-8 cannot hold becomes a replacement mark."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"), quote=True)


def fill_template(template: str, slots: Mapping[str, str]) -> str:
    """Fill `{{name}}` slots in one pass, so that nothing inside a value is taken for a slot."""
    missing = set(_SLOT.findall(template)) - set(slots)
    if missing:
        raise ValueError(f"the page template has slots without a value: {sorted(missing)}")
    return _SLOT.sub(lambda found: slots[found.group(1)], template)


def build_page(
    slots: Mapping[str, str],
    payload: Any,
    *,
    entry: str = STUDY_MODULE,
    template: str = "page.html",
    styles: Sequence[str] = ("style.css",),
) -> str:
    """Return the page. `slots` are HTML already (see `text_html`); `payload` is plain data.

    `entry`, `template` and `styles` are files of `viewer/`: the module that draws, the page around
    it, and the style sheets, joined in this order.
    """
    script = inline_modules(entry)
    style = "".join((VIEWER / name).read_text(encoding="utf-8") for name in styles)
    policy = (
        "default-src 'none'; img-src data: blob:; base-uri 'none'; form-action 'none'; "
        f"script-src '{_hash(script)}'; style-src '{_hash(style)}'"
    )
    page = (VIEWER / template).read_text(encoding="utf-8")
    own = {"policy": policy, "style": style, "script": script, "payload": script_json(payload)}
    return fill_template(page, {**slots, **own})


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")
