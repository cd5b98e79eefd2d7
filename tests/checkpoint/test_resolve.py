"""From a name to files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laminogram import bundled
from laminogram.checkpoint.resolve import resolve
from laminogram.errors import CheckpointError


def test_paths_come_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = resolve("owner/model")
    assert (found.path, found.name) == (Path("owner/model"), "model")
    (tmp_path / "x.pth").touch()
    assert resolve(tmp_path / "x.pth").name == "x"


def test_bundled_names_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(bundled, "_HERE", tmp_path)
    monkeypatch.setattr(bundled, "_ZOO", tmp_path / "zoo")
    assert bundled.names() == {}
    (folder / "card.json").write_text(json.dumps({"summary": "small"}))
    assert bundled.names() == {"tiny": "small"}
    assert resolve("tiny").path == folder
    with pytest.raises(KeyError, match="no bundled model 'large'; there are: tiny"):
        bundled.path("large")


def test_a_clone_has_the_models_of_its_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text("{}")
    (tmp_path / "small" / "card.json").write_text(json.dumps({"summary": "larger"}))
    monkeypatch.setattr(bundled, "_ZOO", tmp_path)
    assert bundled.zoo() == {}  # a folder of that name beside an installed package is not the zoo
    (tmp_path / "train.py").touch()
    assert bundled.zoo() == {"small": "larger"}
    assert resolve("small").path == tmp_path / "small"


def test_the_hub_is_asked_for_tables_and_weights_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    def download(name: str, **options: object) -> str:
        asked.append({**options, "name": name})
        return str(tmp_path)

    def patterns(number: int) -> list[str]:
        found = asked[number]["allow_patterns"]
        assert isinstance(found, list)
        return found

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    (tmp_path / "model.safetensors").touch()
    assert resolve("owner/model", revision="v1").name == "owner/model"
    assert [asked[0]["name"], asked[0]["revision"]] == ["owner/model", "v1"]
    assert len(asked) == 1
    assert not [p for p in patterns(0) if p.endswith((".py", ".bin", ".pth", "*"))]
    # Old uploads have pickles alone; they are read without executing anything.
    (tmp_path / "model.safetensors").unlink()
    resolve("owner/model")
    assert set(patterns(2)) - set(patterns(1)) == {"pytorch_model*.bin"}


def test_offline_and_unknown_names_say_what_was_tried() -> None:
    with pytest.raises(CheckpointError, match=r"'owner/none' .* neither in the local cache nor"):
        resolve("owner/none")
    for name in ("none", "../x/y", "a/b/c"):
        with pytest.raises(CheckpointError, match="no hub id of the form owner/name"):
            resolve(name)
