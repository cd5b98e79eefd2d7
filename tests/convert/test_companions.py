"""What travels with the weights: tokenizers that give the same ids, templates, settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.convert import models
from tests.tokenizers import small
from transformers import AutoTokenizer

from laminogram import load
from laminogram.convert.write import convert

TEXTS = ("the river ran to the sea", " naïve café 12345!", "猫が好き\n\n")


def resized(name: str, folder: Path, size: int) -> Path:
    """A source whose vocabulary has room for a tokenizer."""
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    models.make(name, folder)
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    for key, x in weights.items():
        if x.shape[0] == config["vocab_size"]:
            weights[key] = x.repeat(size // x.shape[0] + 1, 1)[:size].contiguous()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": size}))
    return folder


def test_a_tokenizer_and_its_settings_travel(tmp_path: Path) -> None:
    source = resized("qwen2", tmp_path / "source", 400)
    small.json_folder(source)
    (source / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (source / "generation_config.json").write_text('{"temperature": 0.7}')
    (source / "modeling_evil.py").write_text("raise SystemExit")
    made = convert(source, tmp_path / "result", "llama").path
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (made / name).read_bytes() == (source / name).read_bytes()
    assert not (made / "modeling_evil.py").exists()
    for text in TEXTS:
        assert load(made).tokenizer.encode(text) == load(source).tokenizer.encode(text)


def test_a_rank_file_becomes_a_tokenizer_that_all_read(tmp_path: Path) -> None:
    """qwen.tiktoken is read by the family's code alone; the result's tokenizer.json by all."""
    source = resized("qwen", tmp_path / "source", 700)
    small.write_ranks(source / "qwen.tiktoken", small.ranks())
    before = load(source).tokenizer
    assert before is not None
    done = convert(source, tmp_path / "result", "llama")
    assert "qwen.tiktoken is written as tokenizer.json" in done.remarks
    assert not (done.path / "qwen.tiktoken").exists()
    after, stock = load(done.path).tokenizer, AutoTokenizer.from_pretrained(done.path)
    for text in TEXTS:
        assert after.encode(text) == before.encode(text)
        assert stock(text, add_special_tokens=False)["input_ids"] == before.encode(text, bos=False)
    chat = [{"role": "user", "content": "hello"}]
    assert load(done.path).chat(chat) == load(source).chat(chat)


def test_settings_do_not_name_code_that_stays_behind(tmp_path: Path) -> None:
    source = resized("internlm2", tmp_path / "source", 400)
    small.json_folder(source)
    file = source / "tokenizer_config.json"
    settings = json.loads(file.read_text()) if file.exists() else {}
    code = {"auto_map": {"AutoTokenizer": ["x.Y", None]}, "tokenizer_class": "Y"}
    file.write_text(json.dumps(settings | code))
    done = convert(source, tmp_path / "result", "llama")
    written = json.loads((done.path / "tokenizer_config.json").read_text())
    assert "auto_map" not in written and written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert any("no longer names Y" in remark for remark in done.remarks)
    assert len(AutoTokenizer.from_pretrained(done.path)("the river")["input_ids"]) > 0


def test_a_tokenizer_that_the_target_would_misread_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    source = resized("chatglm", tmp_path / "source", 800)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"padded_vocab_size": 800}))
    from safetensors.torch import load_file, save_file

    weights = load_file(source / "model.safetensors")
    for key in ("transformer.embedding.word_embeddings.weight", "transformer.output_layer.weight"):
        weights[key] = weights[key].repeat(800 // len(weights[key]) + 1, 1)[:800].contiguous()
    save_file(weights, source / "model.safetensors")
    (source / "tokenizer.model").write_bytes(small.sentencepiece_model())
    assert load(source).tokenizer is not None
    done = convert(source, tmp_path / "result", "llama")
    assert not (done.path / "tokenizer.model").exists()
    assert any("tokenizer.model left out" in remark for remark in done.remarks)
