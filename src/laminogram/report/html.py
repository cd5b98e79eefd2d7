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
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

VIEWER = Path(__file__).parent / "viewer"
STUDY_MODULE = "main.js"
Models = Iterable[tuple[str, Mapping[str, Any]]]
_TOLD = ("dtype", "precision", "weights", "weights_hash", "plan", "kv", "device")

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
    main: str = "study.html",
    styles: Sequence[str] = ("style.css",),
) -> str:
    """Return the page. `slots` are HTML already (see `text_html`); `payload` is plain data.

    `entry`, `main` and `styles` are files of `viewer/`: the module that draws, what stands in the
    page's middle, and the style sheets, joined in this order.
    """
    script = inline_modules(entry)
    style = "".join((VIEWER / name).read_text(encoding="utf-8") for name in styles)
    policy = (
        "default-src 'none'; img-src data: blob:; base-uri 'none'; form-action 'none'; "
        f"script-src '{_hash(script)}'; style-src '{_hash(style)}'"
    )
    page, middle = ((VIEWER / n).read_text(encoding="utf-8") for n in ("page.html", main))
    own = {"policy": policy, "style": style, "script": script, "payload": script_json(payload)}
    return fill_template(page, {**slots, **own, "main": fill_template(middle, slots)})


def prompt_html(text: str, who: str) -> str:
    """Return the text that was read as a figure; nothing where there is none."""
    if not text:
        return ""
    return (
        f'<figure class="prompt"><figcaption>The text {who} read</figcaption><blockquote>'
        f"{text_html(text)}</blockquote></figure>"
    )


def provenance_html(manifest: Mapping[str, Any] | None, models: Models, file: str = "") -> str:
    """Return the entries of "How this was made": the command, the text, versions, each model.

    `models` are names and what ran; `file` is where the manifest lies, seen from the page.
    """
    facts: dict[str, str] = {}
    if manifest is not None:
        facts["command"] = shlex.join(manifest["command"])
        if manifest.get("text_sha256"):
            facts["text"] = f"SHA-256 {manifest['text_sha256']}"
        found = manifest["versions"].items()
        facts["versions"] = ", ".join(f"{name} {number}" for name, number in found)
    for name, ran in models:
        known = [f"{key} {ran[key]}" for key in _TOLD if ran.get(key) not in (None, "", [])]
        if known:
            facts[name] = ", ".join(known)
    lines = [f"<dt>{text_html(k)}</dt><dd>{text_html(v)}</dd>" for k, v in facts.items()]
    if file:
        link = f'<a href="{text_html(quote(file))}">{text_html(file)}</a>'
        lines.append(f"<dt>all of it</dt><dd>{link}</dd>")
    return "".join(lines)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")
