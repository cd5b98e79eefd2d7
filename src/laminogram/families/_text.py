"""How a family's texts are read and its chats written, where a checkpoint's files do not say.

Hubs ship much of this as code, which is never run; here it is data.
"""

from __future__ import annotations

from dataclasses import dataclass

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DIGITS_BY_THREE = rf"{_CONTRACTIONS}|\p{{N}}{{1,3}}|{_REST}"
"""How tiktoken's cl100k_base, Llama 3 and GLM-4 split a text."""
SINGLE_DIGITS = rf"{_CONTRACTIONS}|\p{{N}}|{_REST}"
"""How Qwen splits a text."""


@dataclass(frozen=True)
class TiktokenHabits:
    """What a rank file leaves open: how texts are split before merging, whether they are brought to
    Unicode's form NFC, and special tokens, numbered on from the last rank."""

    pattern: str = DIGITS_BY_THREE
    nfc: bool = False
    special: tuple[str, ...] = ()


@dataclass(frozen=True)
class SharedVocabulary:
    """A vocabulary file that models of one vocabulary size share: its name, the package that may
    hold it, and where it is found otherwise (a clause: "is in ...")."""

    size: int
    file: str
    source: str
    package: str | None = None


@dataclass(frozen=True)
class TextHabits:
    """What a family does where the checkpoint's files are silent.

    bos: whether texts begin with BOS. prefixes: tokens by name that texts begin with instead; the
    first of several that the vocabulary has.
    sentencepiece_special: names that are numbered on from a sentencepiece model's last piece. chat:
    a chat template in Jinja, without what every text begins with, but for models of the vocabulary
    sizes that `chats` has templates for; turn_ends: what the assistant writes after its turn. A
    tokenizer.json says all but these itself.
    """

    bos: bool = False
    prefixes: tuple[tuple[str, ...], ...] = ()
    tiktoken: TiktokenHabits = TiktokenHabits()
    sentencepiece_special: tuple[str, ...] = ()
    vocabularies: tuple[SharedVocabulary, ...] = ()
    chat: str | None = None
    chats: tuple[tuple[int, str], ...] = ()
    turn_ends: tuple[str, ...] = ()


BOS = TextHabits(bos=True)
"""Sentencepiece models whose texts begin with <s>."""

_CHATML_TURNS = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

LLAMA = TextHabits(
    bos=True,
    tiktoken=TiktokenHabits(
        special=(
            "<|begin_of_text|>",
            "<|end_of_text|>",
            *(f"<|reserved_special_token_{i}|>" for i in range(4)),
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|reserved_special_token_4|>",
            "<|eot_id|>",
            *(f"<|reserved_special_token_{i}|>" for i in range(5, 251)),
        )
    ),
)

QWEN = TextHabits(
    tiktoken=TiktokenHabits(
        pattern=SINGLE_DIGITS,
        nfc=True,
        special=(
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            *(f"<|extra_{i}|>" for i in range(205)),
        ),
    ),
    chat=(
        "{% if not messages or messages[0].role != 'system' %}"
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "{% endif %}" + _CHATML_TURNS
    ),
    turn_ends=("<|im_end|>",),
)

INTERNLM2 = TextHabits(bos=True, chat=_CHATML_TURNS, turn_ends=("<|im_end|>",))


def _reserved_turns(user: int, assistant: int) -> str:
    """Turns that begin with reserved tokens of these numbers."""
    return (
        "{% for message in messages %}"
        f"{{% if message.role == 'user' %}}<reserved_{user}>"
        f"{{% elif message.role == 'assistant' %}}<reserved_{assistant}>{{% endif %}}"
        "{{ message.content }}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}<reserved_{assistant}>{{% endif %}}"
    )


# In both vocabularies the tokens 195 and 196 begin the turns; in the first (64,000) they have
# other names than in the second.
BAICHUAN = TextHabits(chat=_reserved_turns(106, 107), chats=((64_000, _reserved_turns(102, 103)),))

# Chats are those of ChatGLM 3: its predecessor's "[Round 1]" cannot be told from the files.
CHATGLM = TextHabits(
    prefixes=(("[gMASK]", "sop"), ("[gMASK]", "<sop>")),
    tiktoken=TiktokenHabits(
        special=(
            "<|endoftext|>",
            "[MASK]",
            "[gMASK]",
            "[sMASK]",
            "<sop>",
            "<eop>",
            "<|system|>",
            "<|user|>",
            "<|assistant|>",
            "<|observation|>",
            "<|begin_of_image|>",
            "<|end_of_image|>",
            "<|begin_of_video|>",
            "<|end_of_video|>",
        )
    ),
    sentencepiece_special=(
        "[MASK]",
        "[gMASK]",
        "[sMASK]",
        "sop",
        "eop",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
    ),
    chat=(
        "{% for message in messages %}<|{{ message.role }}|>\n {{ message.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    turn_ends=("<|user|>", "<|observation|>"),
)

_WORLD_SOURCE = "is in the `rwkv` package (pip install rwkv) and in ChatRWKV's repository"
RWKV = TextHabits(
    vocabularies=(
        SharedVocabulary(65536, "rwkv_vocab_v20230424.txt", _WORLD_SOURCE, "rwkv"),
        SharedVocabulary(65529, "rwkv_vocab_v20230424.txt", _WORLD_SOURCE, "rwkv"),
        SharedVocabulary(50277, "20B_tokenizer.json", "is in ChatRWKV's repository"),
    ),
    chat=(
        "{% for message in messages %}"
        "{{ {'user': 'User', 'assistant': 'Assistant', 'system': 'System'}"
        ".get(message.role, message.role) }}: "
        # A blank line ends a turn, so that no message may hold one.
        "{{ message.content | trim | replace('\\r\\n', '\\n') | replace('\\n\\n', '\\n') }}\n\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
    turn_ends=("\n\n",),
)
