"""Tokenizers in use: chats and BOS on a view, on its card, and on the command line."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.infer.speaking import speaking_view

import laminogram
from laminogram import bundled
from laminogram.cli.commands.generate import command
from laminogram.errors import TokenError
from laminogram.tokenizers.base import Manner
from laminogram.tokenizers.chat import ChatTemplate


def chatting() -> laminogram.View:
    view = speaking_view("llama")
    assert view.tokenizer is not None
    view.tokenizer.manner = Manner(
        prefix=(),
        template=ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"),
    )
    return view


def test_a_chat_is_token_ids_for_every_method() -> None:
    view = chatting()
    ids = view.chat([{"role": "user", "content": "hi"}])
    assert view.tokenizer is not None
    assert view.tokenizer.decode(ids) == "user: hi\n"
    made = view.generate(ids, max_new_tokens=2)
    assert list(made.prompt_tokens) == ids  # type: ignore[union-attr]
    with pytest.raises(TokenError, match="has no tokenizer"):
        replace(view, tokenizer=None).chat([])


def test_the_card_and_the_facts_say_whether_bos_is_on() -> None:
    view = chatting()
    assert view.facts()["begins_with"] == []
    assert "BOS" in str(view.card()) and str(view.card()).rstrip().endswith("off")
    assert view.tokenizer is not None
    view.tokenizer.manner = replace(view.tokenizer.manner, prefix=("a",))
    assert view.facts()["begins_with"] == ["a"]
    assert "on: texts begin with a" in str(view.card())
    assert "no tokenizer" in str(replace(view, tokenizer=None).card())


def test_the_command_answers_in_the_model_s_own_format(tmp_path: Path) -> None:
    folder = tmp_path / "chatty"
    shutil.copytree(bundled.path("tiny-llama"), folder)
    (folder / "chat_template.jinja").write_text(
        "{{ messages[0].content }}, said {{ messages[0].role }}"
    )
    arguments = ["--prompt", "The sea", "--max-new-tokens", "3", "--temperature", "0"]
    ran = CliRunner().invoke(command, [str(folder), *arguments, "--chat"])
    assert ran.exit_code == 0, ran.output
    view = laminogram.load(folder)
    assert ran.stdout.rstrip("\n") == view.generate(
        "The sea, said user", max_new_tokens=3
    ).text.rstrip("\n")
    none = CliRunner().invoke(command, ["tiny-llama", *arguments, "--chat"])
    assert isinstance(none.exception, TokenError)
    assert "no chat template" in str(none.exception)


def test_text_without_a_tokenizer_says_what_would_help() -> None:
    view = chatting()
    opened = replace(
        view, tokenizer=None, source=type("Opened", (), {"tokenizer_missing": "get it"})()
    )
    with pytest.raises(TokenError, match=r"give token ids instead of text \(get it\)"):
        opened.loss("a text")
    assert opened.tokens([[1, 2]]).tokens.tolist() == [[1, 2]]
    with pytest.raises(TokenError):
        opened.tokens([[1, opened.config.vocab_size]])
