"""From a name to files, and the tokenizer beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from laminogram import bundled
from laminogram.checkpoint import resolve as resolving
from laminogram.checkpoint.resolve import resolve
from laminogram.checkpoint.tokenizer import load_tokenizer
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
    asked: dict[str, object] = {}

    def download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(resolving, "snapshot_download", download)
    assert resolve("owner/model", revision="v1").name == "owner/model"
    assert asked["name"] == "owner/model"
    assert asked["revision"] == "v1"
    patterns = asked["allow_patterns"]
    assert isinstance(patterns, list)
    assert not [p for p in patterns if p.endswith((".py", ".bin", ".pth", "*"))]


def test_offline_and_unknown_names_say_what_was_tried() -> None:
    with pytest.raises(CheckpointError, match=r"'owner/none' .* neither in the local cache nor"):
        resolve("owner/none")
    for name in ("none", "../x/y", "a/b/c"):
        with pytest.raises(CheckpointError, match="no hub id of the form owner/name"):
            resolve(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["the cat and the hat"] * 4, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    inner.enable_padding(length=64)
    inner.enable_truncation(max_length=2)
    inner.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_tokenizer(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, bos=0, eos=(0,))
    assert tokenizer is not None
    text = "the hat — 猫"
    plain = tokenizer.encode(text, bos=False)
    assert tokenizer.encode(text) == tokenizer.encode(text, bos=True) == [0, *plain]
    assert tokenizer.decode(plain) == text
    assert tokenizer.decode([0, *plain], skip_special=True) == text
    assert len(plain) > 2
    assert (tokenizer.eos, tokenizer.vocab_size) == ((0,), tokenizer.inner.get_vocab_size())
    texts = tokenizer.token_texts(plain)
    assert len(texts) == len(plain)
    assert texts[0] == "the"
    assert all(texts)
    assert tokenizer.token_texts([9999]) == ["<9999>"]


def test_no_tokenizer_and_broken_ones(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    with pytest.raises(CheckpointError, match="names no bos token"):
        tokenizer.encode("x", bos=True)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no readable tokenizer"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    assert load_tokenizer(folder) is None
    assert load_tokenizer(folder / "x.pth") is None
