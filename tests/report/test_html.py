"""Nothing from a prompt, a token or a model's name can leave its place in the page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laminogram.report import html as page
from laminogram.report.page_data import plain_number, study_payload
from laminogram.report.payload import decode_array
from laminogram.report.study import write_study
from laminogram.studies.study import Study

PAGES = {"main.js": ["style.css"], "pictures.js": ["style.css", "pictures.css"]}
NASTY = "</script><script>alert(1)</script><!-- {{payload}} &amp; \"' \u2028 \ud800 \u202e é 🐍"


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@given(st.text(st.characters(), max_size=60))
def test_json_in_a_script_comes_back_and_holds_no_markup(text):
    packed = page.script_json({"text": text})
    assert packed.isascii()
    assert not set("<>&") & set(packed)
    assert json.loads(packed) == {"text": text}


def test_json_refuses_numbers_that_json_has_not():
    with pytest.raises(ValueError, match="JSON compliant"):
        page.script_json({"x": float("nan")})
    assert plain_number(float("nan")) is None
    assert plain_number(float("-inf")) == "-inf"


@pytest.fixture(scope="module")
def nasty_page(synthetic, tmp_path_factory) -> str:
    record = synthetic.fake_record("</title><b>m</b>", "llama", NASTY)
    index = write_study(Study.of([record], NASTY), tmp_path_factory.mktemp("nasty") / "report")
    return index.read_text(encoding="utf-8")


def test_a_nasty_prompt_adds_no_element(nasty_page, synthetic, tmp_path):
    plain = synthetic.fake_record("m", "llama", "hello there")
    other = write_study(Study.of([plain], "hello there"), tmp_path / "r").read_text("utf-8")
    counts = []
    for source in (nasty_page, other):
        parser = Elements()
        parser.feed(source)
        tags = [tag for tag, _ in parser.found]
        counts.append({tag: tags.count(tag) for tag in set(tags)})
    assert counts[0] == counts[1]
    assert counts[0]["script"] == 2
    assert "alert(1)" in nasty_page  # it is there, as text


def test_the_policy_forbids_every_load_and_names_the_hashes(nasty_page):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', nasty_page).group(1)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    script = re.search(r'<script type="module">(.*?)</script>', nasty_page, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?:https?:)?//""", nasty_page)
    assert "@import" not in nasty_page


def test_every_slot_is_filled_and_a_missing_one_is_named():
    with pytest.raises(ValueError, match="title"):
        page.fill_template("{{title}} {{a}}", {"a": "x"})
    assert page.fill_template("{{a}}", {"a": "{{b}}"}) == "{{b}}"


def test_the_modules_are_joined_without_a_ring_and_stay_small(tmp_path):
    for entry, styles in PAGES.items():
        script = page.inline_modules(entry)
        assert not re.search(r"^(import|export)\b", script, re.M)
        style = sum((page.VIEWER / name).stat().st_size for name in styles)
        assert len(script.encode()) + style < 100_000
        pattern = r"^(?:async )?(?:function\*?|class|const|let) ([A-Za-z_]\w*)"
        names = re.findall(pattern, script, re.M)
        assert len(names) == len(set(names))
    (tmp_path / "a.js").write_text('import { b } from "./b.js";\nexport const a = 1;\n')
    (tmp_path / "b.js").write_text('import { a } from "./a.js";\nexport const b = 1;\n')
    with pytest.raises(ValueError, match="ring"):
        page.inline_modules("a.js", tmp_path)


def test_every_module_of_the_folder_is_used_by_a_page():
    script = "".join(map(page.inline_modules, PAGES))
    for path in Path(page.VIEWER).glob("*.js"):
        assert f"// {path.name}\n" in script


def test_the_payload_of_a_wide_model_is_pooled_and_names_channels(synthetic):
    record = synthetic.fake_record("wide", "llama", "a b c", channels=1100, layers=2)
    data = study_payload(Study.of([record], "a b c"))
    model = data["models"][0]
    values, offsets = decode_array(model["values"]), decode_array(model["offsets"])
    assert values.shape == offsets.shape == (2, 3, 367)
    assert model["width"] == 3
    channel = 100 * 3 + offsets[1, 2, 100]
    assert values[1, 2, 100] == record.values[1, 2, channel]


def test_the_modules_of_the_viewer_together_stay_below_100_kB():
    assert sum(path.stat().st_size for path in page.VIEWER.glob("*.js")) < 100_000
