"""The Python of pages that need nothing but the package is run as it stands, block after block."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize(
    ("page", "blocks"),
    # The last of plans is of transformers, the second of python takes minutes.
    [("plans", 3), ("outliers", None), ("train", None), ("python", 1)],
)
def test_the_python_of_a_page_runs(page, blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text("utf-8"), re.DOTALL)
    assert found
    names: dict[str, object] = {}
    for block in found[:blocks]:
        exec(compile(block, f"{page}.md", "exec"), names)
