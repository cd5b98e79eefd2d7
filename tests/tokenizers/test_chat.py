"""Chat templates: the text of transformers, and no template that runs or grows for ever."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from laminogram.errors import TokenError
from laminogram.families import _text
from laminogram.tokenizers import bounds
from laminogram.tokenizers.chat import ChatTemplate

CALLS = [{"name": "f", "arguments": {"x": 1}}]
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "Say 猫 <b>&\"'\n\nplease"},
    {
        "role": "assistant",
        "content": "Here:\n猫\n",
        "tool_calls": [{"name": "f", "arguments": {"x": 1}}],
    },
    {"role": "user", "content": "thanks"},
]
# The constructs that published templates are made of, in templates of our own.
TEMPLATES = {
    "chatml": _text._CHATML_TURNS,
    "macro": (
        "{%- macro turn(m) -%}[{{ m.role | upper }}] "
        "{{ m['content'].strip() ~ '!' }}{%- endmacro -%}"
        "{% for message in messages %}\n  {{ turn(message) }}\n{% endfor %}"
    ),
    "namespace": (
        "{% set ns = namespace(n=0, first=true) %}{{- bos_token }}\n"
        "{%- for message in messages %}\n"
        "    {%- if message.role == 'system' %}{% continue %}{% endif %}\n"
        "    {%- set ns.n = ns.n + 1 %}\n"
        "    {{- '%s %02d' | format(message.role, ns.n) }}: {{ message.content | trim }}\n"
        "    {%- if loop.index0 == 2 and not loop.last %}{{ eos_token }}{% break %}{% endif %}\n"
        "{%- endfor %}"
    ),
    "tools": (
        "{{ tools | tojson }}{{ tools | tojson(indent=4) if tools else 'none' }}"
        "{% for m in messages if m.tool_calls is defined %}{{ m.tool_calls | tojson }}"
        "{% for k, v in m.tool_calls[0].arguments | items %}{{ k }}={{ v }}{% endfor %}{% endfor %}"
        "{{ documents }}{{ messages | length }}"
        "{{ messages[::-1][0].content.split('a') | join('+') }}"
        "{% if enable_thinking is defined and enable_thinking is false %}quiet{% endif %}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ '{} <{:>6}>'.format(m.role, 'x') }}{% endif %}{% endfor %}"
        "{% set text %}{{ messages[0].content * 2 }}{% endset %}{{ text | replace(' ', '_') }}"
        "{{ dict(a=1) | tojson }}{{ messages | map(attribute='role') | unique | list }}"
        "{{ none }}{{ undefined_name }}{{ 7 // 2 }}{{ 2 ** 5 }}{{ [1] + [2] }}"
    ),
}


@pytest.mark.parametrize("name", list(TEMPLATES))
@pytest.mark.parametrize("prompt", [True, False])
def test_texts_are_those_of_transformers(name: str, prompt: bool) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    tools = [{"type": "function", "function": {"name": "f", "description": "<é>"}}]
    more: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "enable_thinking": False}
    source = TEMPLATES[name]
    theirs, _ = render_jinja_template(
        [CHAT], tools=tools, chat_template=source, add_generation_prompt=prompt, **more
    )
    ours = ChatTemplate(source).render(CHAT, add_generation_prompt=prompt, tools=tools, **more)
    assert ours == theirs[0]


HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "written loops": "{% for a in range(999) %}{% for b in range(999) %}aa{% endfor %}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive loop": "{% for x in [1] recursive %}{{ loop([x]) }}{{ loop([x]) }}{% endfor %}",
    "product": "{{ 'a' * 10000000000 }}",
    "folded product": "{% set x = ('a' * 9999999) * 9999999 %}",
    "list product": "{{ (1,) * 9999999999 }}",
    "power": "{{ 9 ** 9 ** 9 ** 9 ** 9 }}",
    "growing number": "{% set n = namespace(x=9) %}{% for i in range(99) %}"
    "{% set n.x = n.x * n.x %}{% endfor %}",
    "doubled text": "{% set x = 'ab' %}" + "{% set x = x ~ x %}" * 60,
    "added text": "{% set x = 'ab' %}" + "{% set x = x + x %}" * 60,
    "doubled block": "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "nested list": "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60 + "{{ x }}",
    "centre": "{{ 'a'.center(9999999999) }}",
    "centre filter": "{{ 'a' | center(9999999999) }}",
    "filter block": "{% filter center(9999999999) %}a{% endfilter %}",
    "mapped filter": "{{ ['a'] | map('center', 9999999999) | list }}",
    "width": "{{ '{:>9999999999}'.format('a') }}",
    "given width": "{{ '{:{}}'.format('a', 9999999999) }}",
    "percent width": "{{ '%9999999999d' % 1 }}",
    "starred width": "{{ '%*d' % (999999999, 1) }}",
    "format filter": "{{ '%9999999999d' | format(1) }}",
    "replace": "{% set x = 'a' * 99999 %}{{ x.replace('a', x) }}",
    "join": "{% set x = 'a' * 99999 %}{{ x.join(x) }}",
    "join filter": "{% set x = 'a' * 99999 %}{{ range(99999) | join(x) }}",
    "sum": "{{ ([[1] * 999] * 9999) | sum(start=[]) }}",
    "tabs": "{{ '\t'.expandtabs(9999999999) }}",
    "indent": "{% set x = 'a\n' * 99999 %}{{ x | indent(x) }}",
    "json": "{{ messages | tojson(indent=9999999999) }}",
    "batch": "{{ [1] | batch(999999999, 'x') | list }}",
    "wrap": "{% set x = 'a' * 99999 %}{{ x | wordwrap(1, true, x) }}",
    "range": "{{ range(9999999999) | list }}",
    "python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "change": "{{ messages.append(1) }}",
    "private": "{% set n = namespace() %}{% set n._x = 1 %}",
    "file": "{% include '/etc/hostname' %}",
    "syntax": "{% for %}",
    "long": "{{ 1 }}" * 60_000,
    "deep": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_templates_end_in_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    monkeypatch.setattr(bounds, "MAX_SIZE", 500_000)
    monkeypatch.setattr(bounds, "MAX_SECONDS", 1.0)
    tracemalloc.start()
    with pytest.raises(TokenError, match="chat template"):
        ChatTemplate(HOSTILE[name]).render(CHAT)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_time_is_bounded_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))
    with pytest.raises(TokenError, match="runs for more than 5 seconds"):
        ChatTemplate("{% for i in range(9) %}{% endfor %}").render(CHAT)


def test_one_rendering_leaves_the_next_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_SIZE", 500_000)
    template = ChatTemplate("{% for i in range(1000) %}{{ 'a' * 100 }}{% endfor %}")
    for _ in range(4):
        assert len(template.render(CHAT)) == 100_000


def test_what_a_template_or_a_chat_may_say() -> None:
    with pytest.raises(TokenError, match="refuses this chat: roles must alternate"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render(CHAT)
    with pytest.raises(TokenError, match=r"message 1 of a chat .* role"):
        ChatTemplate("").render([CHAT[0], {"content": "x"}])
    with pytest.raises(TokenError, match=r"holds JSON values, not a .*Path"):
        ChatTemplate("").render([{"role": "user", "content": Path()}])
    shown = ChatTemplate("{{ strftime_now('%Y') }}").render([])
    assert shown.isdigit()
    # What lies behind a function is no value for a template.
    assert ChatTemplate("{{ raise_exception.__globals__ }}").render([]) == ""


@pytest.mark.parametrize(
    ("habits", "expected"),
    [
        (
            _text.QWEN,
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (_text.INTERNLM2, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        (_text.BAICHUAN, "<reserved_106>Hi<reserved_107>"),
        (_text.CHATGLM, "<|user|>\n Hi<|assistant|>"),
        (_text.RWKV, "User: Hi\n\nAssistant:"),
    ],
)
def test_the_formats_that_hubs_ship_as_code(habits: _text.TextHabits, expected: str) -> None:
    """The formats are restated by hand; the hubs' code is neither shipped nor run here."""
    assert habits.chat is not None
    assert (
        ChatTemplate(habits.chat).render([{"role": "user", "content": "Hi"}], bos_token="<s>")
        == expected
    )


def test_a_blank_line_in_a_message_does_not_end_its_turn() -> None:
    assert _text.RWKV.chat is not None
    text = ChatTemplate(_text.RWKV.chat).render([{"role": "user", "content": " a\r\n\r\nb\n\nc\n"}])
    assert text == "User: a\nb\nc\n\nAssistant:"
