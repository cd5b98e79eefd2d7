"""Made-up recordings that look like real ones: heavy tails, giant channels, growth with depth.

`FakeGram` has what a study reads of a gram; `FakeView` what it asks of a loaded model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from laminogram.studies.recording import ModelRecord, record_from_gram
from laminogram.studies.study import DEFAULT_PROMPT, Study

BOS = 0


def words(text: str) -> list[str]:
    return re.findall(r" ?\w+| ?[^\w\s]|\s", text)


def pieces(text: str) -> list[str]:
    return [part for word in words(text) for part in re.findall(r"(?s).{1,4}", word)]


@dataclass
class FakeCard:
    name: str
    family: str
    layers: int
    hidden_size: int
    vocab_size: int = 4096
    parameters: dict[str, int] = field(default_factory=dict)
    cache_bytes_per_token: int = 0
    state_bytes: int = 0
    context: int | None = None

    def __post_init__(self) -> None:
        c, n = self.hidden_size, self.layers
        self.parameters = self.parameters or {
            "embedding": self.vocab_size * c,
            "attn": 4 * c * c * n,
            "ffn": 8 * c * c * n,
            "norms": 2 * c * n + c,
            "head": 0 if self.family == "llama" else self.vocab_size * c,
        }

    @property
    def parameter_total(self) -> int:
        return sum(self.parameters.values())

    @property
    def bytes_by_precision(self) -> dict[str, int]:
        total = self.parameter_total
        return {"float32": 4 * total, "bfloat16": 2 * total, "float16": 2 * total}


@dataclass
class FakeGram:
    values: np.ndarray[Any, Any]
    tokens: np.ndarray[Any, Any]
    mask: np.ndarray[Any, Any]
    token_texts: list[list[str]] | None
    prompt_lengths: np.ndarray[Any, Any]
    manifest: dict[str, Any]

    def __getitem__(self, site: str) -> np.ndarray[Any, Any]:
        return self.values

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(range(len(self.values)))

    @property
    def step_layers(self) -> dict[int, tuple[int, str]]:
        return {step: (step, "layer") for step in self.steps}

    def axes(self, site: str) -> tuple[str, ...]:
        return ("B", "T", "C")


def responses(layers: int, tokens: int, channels: int, seed: int) -> np.ndarray[Any, Any]:
    """(layers, tokens, channels) float32 with Student tails and a few giant channels."""
    rng = np.random.default_rng(seed)
    growth = 0.12 * 12 ** np.linspace(0, 1, layers)[:, None, None]
    gain = rng.lognormal(0.0, 0.5, (layers, 1, channels))
    slow = rng.normal(0.0, 0.6, (layers, 1, channels))
    x = growth * gain * (0.5 * rng.standard_t(3.5, (layers, tokens, channels)) + slow)
    giants = rng.choice(channels, 3, replace=False)
    for rank, channel in enumerate(giants):
        sway = rng.normal(1.0, 0.25, (layers, tokens))
        x[:, :, channel] += growth[:, :, 0] * (14.0 / (rank + 1)) * (-1) ** rank * sway
    x[min(1, layers - 1), 0, giants[0]] += 60.0
    return x.astype(np.float32)


def fake_gram(
    text: str = DEFAULT_PROMPT,
    *,
    layers: int = 6,
    channels: int = 192,
    seed: int = 0,
    cut: Any = words,
    bos: bool = False,
    pads: int = 0,
    made: tuple[str, ...] = (),
) -> FakeGram:
    texts = (["<s>"] if bos else []) + cut(text) + list(made)
    ids = [BOS if t == "<s>" else 1 + sum(t.encode("utf-8", "replace")) % 4095 for t in texts]
    values = np.full((layers, 1, len(ids) + pads, channels), 1e6, dtype=np.float32)
    values[:, 0, : len(ids)] = responses(layers, len(ids), channels, seed)
    mask = np.arange(len(ids) + pads)[None] < len(ids)
    return FakeGram(
        values,
        np.array([ids + [0] * pads]),
        mask,
        [texts],
        np.array([len(ids) - len(made)]),
        {"precision": "float32", "weights_hash": f"made-up-{seed}", "plan": f"0-{layers - 1}"},
    )


def fake_record(name: str, family: str, text: str = DEFAULT_PROMPT, **options: Any) -> ModelRecord:
    gram = fake_gram(text, **options)
    layers, _, _, channels = gram.values.shape
    card = FakeCard(name, family, layers, channels)
    if family == "llama":
        card.cache_bytes_per_token, card.context = 4 * channels * layers, 1024
    else:
        card.state_bytes = 20 * channels * layers
    count = int(gram.prompt_lengths[0]) - 1
    losses = np.random.default_rng(7).gamma(2.0, 1.4, max(count, 0))
    return record_from_gram(gram, name=name, card=card, text=text, losses=losses, bos_token_id=BOS)


def fake_study(text: str = DEFAULT_PROMPT, *, same_tokens: bool = False) -> Study:
    cut = words if same_tokens else pieces
    return Study.of(
        [
            fake_record("tiny-llama", "llama", text, channels=192, seed=1),
            fake_record("tiny-rwkv4", "rwkv4", text, channels=224, seed=2, cut=cut),
        ],
        text,
    )


class FakeView:
    """What `study_models` asks of a loaded model."""

    def __init__(self, name: str = "fake", family: str = "llama", *, causal: bool = True) -> None:
        self.name, self.family, self.causal = name, family, causal
        self.tokenizer: Any = object()
        self.context: int | None = 512

    @property
    def config(self) -> Any:
        longest = None if self.family.startswith("rwkv") else self.context
        return SimpleNamespace(bos_token_id=BOS, causal=self.causal, longest_text=longest)

    def card(self) -> FakeCard:
        card = FakeCard(self.name, self.family, 6, 192)
        card.context = self.context
        return card

    def tokens(self, text: str) -> Any:
        return SimpleNamespace(lengths=np.array([len(words(text))]))

    def record(self, text: str, sites: Any, new_tokens: int = 0) -> FakeGram:
        return fake_gram(text, made=(" and",) * (new_tokens - 1))  # the last is not read

    def loss(self, text: str) -> Any:
        import torch

        return SimpleNamespace(per_token=torch.full((1, len(words(text)) - 1), 2.0))
