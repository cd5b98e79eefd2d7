"""Classifying texts: a classifier fine-tuned on an encoder under a plan, and judged under it.

The setting of "Transformer Layers as Painters" (Sun et al., arXiv 2407.09298): BERT with its layers
in another order while it is fine-tuned and while it is evaluated; "frozen" trains the classifier
alone. Axes: B texts, L labels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.evaluate.score import scores
from laminogram.stack.batch import Batch
from laminogram.stack.config import ScoreConfig
from laminogram.stack.rebuild import rebuild
from laminogram.tokenizers.fast import FastTokenizer
from laminogram.view import View

_TEXTS = (("sentence",), ("sentence1", "sentence2"))
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Example:
    """One text, or two that belong together, and its label."""

    first: str
    second: str | None
    label: int


@dataclass(frozen=True)
class FineTuning:
    """How a classifier is trained. The defaults are those of the paper's run of BERT.

    frozen: only the classifier learns (the paper's rate there is 3e-2). The rate falls linearly to
    zero; there is no dropout.
    """

    epochs: float = 3
    lr: float = 2e-5
    batch: int = 32
    longest: int = 128
    frozen: bool = False
    weight_decay: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Judged:
    """How often a classifier is right on `count` texts. `matthews` is the correlation of labels
    and answers, 0 for a constant answer (CoLA's measure); `right` says it text by text."""

    accuracy: float
    matthews: float
    count: int
    right: tuple[bool, ...]

    @property
    def standard_error(self) -> float:
        """That of the accuracy."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.count)


def read_examples(file: str | Path) -> list[Example]:
    """Lines of JSON with `sentence`, or `sentence1` and `sentence2`, and `label`, as in GLUE.

    ConfigError names the line that holds something else.
    """
    examples = []
    lines = Path(file).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):  # other ends of lines may stand inside a text
        try:
            row = json.loads(line)
            names = next(names for names in _TEXTS if names[0] in row)
            texts = [str(row[name]) for name in names]
            examples.append(Example(texts[0], texts[1] if texts[1:] else None, int(row["label"])))
        except (ValueError, LookupError, TypeError, StopIteration) as error:
            raise ConfigError(
                f"{file}, line {number}: expected an object with sentence (or sentence1 and "
                f"sentence2) and label, found {line[:80]!r}"
            ) from error
    return examples


def add_classifier(view: View, labels: int, *, seed: int = 0, std: float = 0.02) -> View:
    """The encoder with a classifier on its pooler, all weights its own copy.

    ConfigError for a decoder (`add_score_head` is for those) and for an encoder without a pooler.
    """
    config = view.config
    if config.causal or not config.head.pooler:
        raise ConfigError(f"{view.name} is no encoder with a pooler, which a classifier reads")
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(labels, config.hidden_size, generator=generator) * std
    made = {name: p.detach().clone() for name, p in view.stack.named_parameters()}
    made["score.out.weight"] = weight.to(view.stack.head_device, view.dtype)
    made["score.out.bias"] = torch.zeros_like(made["score.out.weight"][:, 0])
    score = ScoreConfig(labels=labels, token="first", through="pooler", bias=True)
    config = replace(config, score=score)
    return replace(view, stack=rebuild(view.stack, config, made), name=f"{view.name}-classifier")


def fine_tune(
    view: View,
    examples: Sequence[Example],
    how: FineTuning | None = None,
    *,
    progress: Progress | None = None,
) -> View:
    """A classifier of these examples, trained under the view's plan and edits.

    The view's own weights stay as they are. progress: called with step, steps and loss.
    """
    how = how or FineTuning()
    labels = 1 + max(example.label for example in examples)
    tuned = add_classifier(view, labels, seed=how.seed)
    learning = _learning(tuned, frozen=how.frozen)
    optimiser = torch.optim.AdamW(learning, lr=how.lr, weight_decay=how.weight_decay)
    order = torch.Generator().manual_seed(how.seed)
    steps = max(1, round(how.epochs * len(examples) / how.batch))
    queue: list[int] = []
    for step in range(steps):
        if len(queue) < min(how.batch, len(examples)):
            queue += torch.randperm(len(examples), generator=order).tolist()
        chosen, queue = [examples[i] for i in queue[: how.batch]], queue[how.batch :]
        for group in optimiser.param_groups:
            group["lr"] = how.lr * (1 - step / steps)
        said = scores(tuned, _batch(tuned, chosen, how.longest))
        wanted = torch.tensor([example.label for example in chosen], device=said.device)
        loss = F.cross_entropy(said, wanted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        if progress is not None:
            progress(step + 1, steps, float(loss.detach()))
    return tuned


@torch.no_grad()
def judge(
    view: View, examples: Sequence[Example], *, batch: int = 64, longest: int = 128
) -> Judged:
    """How a classifier answers under the view's plan and edits, texts of like length together."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].first))
    answers = [0] * len(examples)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        said = scores(view, _batch(view, [examples[i] for i in rows], longest))
        for i, answer in zip(rows, said.argmax(-1).tolist(), strict=True):
            answers[i] = answer
    labels = [example.label for example in examples]
    right = tuple(answer == label for answer, label in zip(answers, labels, strict=True))
    return Judged(sum(right) / len(right), matthews(labels, answers), len(right), right)


def matthews(labels: Sequence[int], answers: Sequence[int]) -> float:
    """The Matthews correlation, for more than two labels Gorodkin's; 0 where a side is constant."""
    count = len(labels)
    pairs = [(labels.count(kind), answers.count(kind)) for kind in {*labels, *answers}]
    right = sum(label == answer for label, answer in zip(labels, answers, strict=True))
    common = count * right - sum(a * b for a, b in pairs)
    below = math.sqrt(math.prod(count**2 - sum(pair[i] ** 2 for pair in pairs) for i in (0, 1)))
    return common / below if below else 0.0


def _learning(view: View, *, frozen: bool) -> list[torch.nn.Parameter]:
    """The parameters that learn; the others ask for no gradient."""
    learning = []
    for name, parameter in view.stack.named_parameters():
        parameter.requires_grad_(not frozen or name.startswith("score."))
        if parameter.requires_grad:
            learning.append(parameter)
    return learning


def _batch(view: View, examples: Sequence[Example], longest: int) -> Batch:
    tokenizer = view.tokenizer
    if not isinstance(tokenizer, FastTokenizer):
        raise ConfigError(f"{view.name} has no tokenizer that joins two texts")
    pairs = [tokenizer.encode_pair(one.first, one.second, longest) for one in examples]
    width = max(len(ids) for ids, _ in pairs)
    ids, types = (_padded([pair[i] for pair in pairs], width) for i in (0, 1))
    mask = torch.arange(width) < torch.tensor([[len(pair[0])] for pair in pairs])
    return view.tokens(ids, mask=mask, types=types)


def _padded(rows: Sequence[Sequence[int]], width: int) -> Tensor:
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
