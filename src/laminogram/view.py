"""The view: a stack under conditions, with every method that one calls on it.

    stack = laminogram.load("tiny-llama")
    gram = stack.record("The river ran", sites=["ffn_out"])
    cut = stack.using(plan="0-2, 4-5", edits=[laminogram.edits.zero("ffn_out", layers=1)])
    cut.loss("The river ran down to the sea.")

`laminogram.load` returns a view without conditions. Weights are shared between views; a view itself
is a value that is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from laminogram.checkpoint.load import open_model
from laminogram.errors import ConfigError
from laminogram.evaluate.loss import Loss, loss, losses
from laminogram.evaluate.score import Pooling, embeddings, scores
from laminogram.infer.generate import Generation, Generations, generate
from laminogram.infer.recording import record_generation
from laminogram.plans import Plan
from laminogram.probe import look, recording
from laminogram.probe.folder import GramFolder
from laminogram.probe.gram import Gram
from laminogram.probe.measuring import measure
from laminogram.probe.numbers import numbers
from laminogram.probe.statistics import Measurement
from laminogram.probe.subject import Subject, Text, precision_dtype

__all__ = ["Text", "View", "load"]


class View(Subject):
    """A `Subject` (which says how text is read and what conditions are) and all one asks of it."""

    def loss(self, text: Text, **how: Any) -> Loss:
        """Loss of each token given those before it (teacher forced), in nats."""
        return loss(self, self.tokens(text, **how))

    def losses(
        self, plans: Iterable[Plan | str], text: Text, *, progress: bool = True, **how: Any
    ) -> list[Loss]:
        """`loss` under each of many plans, what they share at their beginning run once."""
        return losses(self, plans, self.tokens(text, **how), progress=progress)

    def scores(self, text: Text, **how: Any) -> Tensor:
        """What a reward or classifier head says of each text (B, labels), without gradients (the
        function `laminogram.evaluate.score.scores` keeps them)."""
        with torch.no_grad():
            return scores(self, self.tokens(text, **how))

    def embeddings(
        self, text: Text, pooling: Pooling = "mean", *, unit_length: bool = False, **how: Any
    ) -> Tensor:
        """One vector for each text (B, C): see `laminogram.evaluate.score.embeddings`."""
        with torch.no_grad():
            return embeddings(self, self.tokens(text, **how), pooling, unit_length=unit_length)

    def generate(self, prompt: Text | None = None, **options: Any) -> Generation | Generations:
        """Continue one prompt or many, or what a `cache` holds: see
        `laminogram.infer.generate.generate`."""
        return generate(self, prompt, **options)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """The token ids of a chat (`{"role": "user", "content": ...}`, ...) by the model's own
        template, for every method that takes a text: `view.generate(view.chat(messages))`.

        `view.tokenizer.chat` takes the same and gives the text. TokenError where the model has no
        tokenizer or no template, or where the template refuses the messages.
        """
        return self.needed_tokenizer().chat_ids(
            messages, add_generation_prompt=add_generation_prompt, **variables
        )

    def fast(self) -> Self:
        """Make forwards over whole texts fast on a GPU, and give this view back: see `FastForward`.
        It acts on the weights, so on every view of them."""
        self.stack.accelerate()
        return self

    # Looking

    def record(
        self,
        text: Text,
        sites: str | Sequence[str] = ("ffn_out",),
        layers: int | Iterable[int] | None = None,
        *,
        steps: int | Iterable[int] | None = None,
        to: str | Path | torch.device = "cpu",
        grad: Callable[[Tensor], Tensor] | None = None,
        new_tokens: int = 0,
        phase: recording.RecordPhase = "all",
        shard_size: int = 16,
        mask: Tensor | None = None,
        types: Tensor | None = None,
        bos: bool | None = None,
        **options: Any,
    ) -> Gram | GramFolder:
        """Every named site of every chosen step, as a `Gram`.

        mask, types, bos: as in `tokens`. to: a device ("cpu", "cuda"), or a folder, to which
        documents go in resumable shards of `shard_size`. grad: a function from logits (B, T, V), 0
        at pads, to a scalar; its gradients at the same addresses are in `gram.grad`. new_tokens:
        record also while generating so many tokens (further options go to `generate`); phase:
        frames of the prompt, of new tokens, or all.
        """
        request = recording.Request(
            names=(sites,) if isinstance(sites, str) else tuple(sites),
            layers=numbers("layers", layers),
            steps=numbers("steps", steps),
            new_tokens=new_tokens,
            phase=phase,
            options=options,
        )
        if any(given is not None for given in (mask, types, bos)):
            text = self.tokens(text, mask=mask, types=types, bos=bos)
        take = partial(self._record, request, grad)
        place = recording.destination(to)
        if not isinstance(place, Path):
            return take(text, place)
        if grad is not None:
            raise ConfigError("gradients are recorded into memory: give to= a device")
        return recording.to_folder(self, text, request, place, shard_size, take)

    def recordings(
        self,
        texts: Text,
        sites: str | Sequence[str] = ("ffn_out",),
        layers: int | Iterable[int] | None = None,
        *,
        steps: int | Iterable[int] | None = None,
        batch_size: int = 8,
    ) -> Iterator[Gram]:
        """`record` for many texts, a gram for each batch of them; on a GPU the next batch is
        computed while one arrives: see `recording.record_batches`."""
        request = recording.Request(
            names=(sites,) if isinstance(sites, str) else tuple(sites),
            layers=numbers("layers", layers),
            steps=numbers("steps", steps),
        )
        return recording.record_batches(self, texts, request, batch_size)

    def _record(
        self,
        request: recording.Request,
        grad: recording.Scalar | None,
        text: Text,
        device: torch.device,
        *,
        whole: bool = True,
    ) -> Gram:
        if request.new_tokens:
            if grad is not None:
                raise ConfigError("grad and new_tokens exclude each other: record the whole text")
            return record_generation(self, text, request, device, whole=whole)
        return recording.record(self, text, request, device, grad, whole=whole)

    def measure(
        self,
        texts: Text,
        statistics: str | Sequence[Any] | Mapping[str, Sequence[Any]] = ("moments",),
        sites: str | Sequence[str] = ("ffn_out",),
        layers: int | Iterable[int] | None = None,
        *,
        batch_size: int = 8,
        first_document: int = 0,
        progress: bool = True,
    ) -> Measurement:
        """Streaming statistics at sites, storing no activation: see `probe.measuring`."""
        return measure(self, texts, statistics, sites, layers, batch_size, progress, first_document)

    def show_cos_distance(self, layer: int, text: Text) -> look.CosDistance:
        """How far a layer turns the hidden state: cosine of its input and output, per token."""
        return look.show_cos_distance(self, text, layer)

    def show_topk_token(self, layer: int, text: Text, K: int = 10) -> look.TopTokens:
        """What the model would say if it stopped at a layer: the K likeliest tokens."""
        return look.show_topk_token(self, text, layer, K)

    def show_attention(
        self, layer: int, token_a: int | str, token_b: int | str, text: Text
    ) -> look.AttentionBetween:
        """The attention between two tokens, given by position or by text, head by head."""
        return look.show_attention(self, text, layer, token_a, token_b)


def load(
    path_or_name: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: Any = "cpu",
    **settings: Any,
) -> View:
    """Open a model: a bundled name, a directory, a `.pth` file, or a hub id.

    dtype: `fp32`, `bf16`, `fp16` or a torch dtype; None keeps the checkpoint's. device: one device,
    a list over which the layers are spread, or "auto". Weights are memory-mapped where dtype and
    layout match. Errors are CheckpointError, FamilyError or ConfigError.
    """
    wanted = None if dtype is None else precision_dtype(dtype)
    opened = open_model(path_or_name, dtype=wanted, device=device, **settings)
    plan = opened.stack.full_plan()
    return View(opened.stack, opened.tokenizer, opened.name, plan, source=opened)
