"""The view: a stack under conditions. `laminogram.load` returns one with no condition at all.

    stack = laminogram.load("tiny-llama")
    gram = stack.record("The river ran", sites=["ffn_out"])
    cut = stack.using(plan="0-2, 4-5", edits=[laminogram.edits.zero("ffn_out", layers=1)])
    cut.loss("The river ran down to the sea.")

Weights are shared between views; a view itself is a value that is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laminogram.checkpoint.fingerprint import fingerprint
from laminogram.checkpoint.tokenizer import Tokenizer
from laminogram.errors import ConfigError, EditError, SiteError, TokenError
from laminogram.probe import recording
from laminogram.probe.card import Card, make_card
from laminogram.probe.edits import Edit
from laminogram.probe.gram import Gram
from laminogram.probe.program import Program, Reads, Sink
from laminogram.stack import forward
from laminogram.stack.batch import Batch
from laminogram.stack.cache import Cache
from laminogram.stack.config import StackConfig
from laminogram.stack.forward import Logits, Provision
from laminogram.stack.plan import Plan
from laminogram.stack.sites import STACK_STEP
from laminogram.stack.stack import Stack
from laminogram.stack.taps import Observer

if TYPE_CHECKING:
    from laminogram.evaluate.loss import Loss
    from laminogram.infer.generate import Generation, Generations
    from laminogram.probe.folder import GramFolder
    from laminogram.probe.look import AttentionBetween, CosDistance, TopTokens
    from laminogram.probe.statistics import Measurement

Text = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor | Batch
PRECISIONS = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class View:
    """A stack, its tokenizer, and the plan and edits under which it runs.

    Wherever text is asked for, one text, a list of texts, token ids, ragged lists of ids or a
    tensor (B, T) will do; `tokens` says how they are read. Rows come back in the layout they
    were given.
    """

    stack: Stack
    tokenizer: Tokenizer | None
    name: str
    plan: Plan
    edits: tuple[Edit, ...] = ()
    v_first: Provision = "embedding"
    source: Any = None

    # What it is

    @property
    def config(self) -> StackConfig:
        return self.stack.config

    @property
    def device(self) -> torch.device:
        return self.stack.device

    @property
    def dtype(self) -> torch.dtype:
        return self.stack.dtype

    @cached_property
    def conditions(self) -> str:
        """Plan, edits, precision and side-stream reading as text: what a cache belongs to."""
        edits = "; ".join(str(edit) for edit in self.edits) or "none"
        return f"plan {self.plan}, edits {edits}, {self.dtype}, v_first {self.v_first}"

    def card(self) -> Card:
        """Size by part, memory by precision, cache and state; prints well."""
        return make_card(self.stack, self.plan, self.name, tokenizer=self.tokenizer is not None)

    def facts(self) -> dict[str, Any]:
        """What a manifest says of the view: model, weights hash, precision, plan, edits."""
        return {
            "model": self.name,
            "family": self.config.family,
            "weights_hash": fingerprint(self.stack),
            "precision": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "plan": str(self.plan),
            "edits": [str(edit) for edit in self.edits],
            "v_first": self.v_first,
            "bos_token_id": self.config.bos_token_id,
        }

    def __repr__(self) -> str:
        edits = f", {len(self.edits)} edits" if self.edits else ""
        return f"<{self.name}: {self.config.family}, plan {self.plan}{edits}>"

    # Conditions

    def using(
        self,
        plan: Plan | str | None = None,
        edits: Edit | Iterable[Edit] = (),
        precision: str | torch.dtype | None = None,
        v_first: Provision | None = None,
    ) -> View:
        """The same weights under other conditions.

        plan replaces this view's plan; edits are added to its edits, after them; precision converts
        a copy of the weights (`fp32`, `bf16`, `fp16`); v_first chooses how RWKV-7's side stream is
        provided (`embedding` or `first-step`). PlanError, SiteError or EditError say what does not
        exist.
        """
        wanted = Plan.parse(plan) if isinstance(plan, str) else plan or self.plan
        wanted.check(self.config.num_layers)
        added = (edits,) if isinstance(edits, Edit) else tuple(edits)
        for one in added:
            if not isinstance(one, Edit):
                raise EditError(
                    f"{one!r} is no edit; laminogram.edits makes them: edits.zero('ffn_out')"
                )
        stack = self.stack if precision is None else _converted(self.stack, precision)
        view = replace(
            self,
            stack=stack,
            plan=wanted,
            edits=self.edits + added,
            v_first=v_first or self.v_first,
        )
        view.program()  # finds every selection that does not exist, now
        return view

    # Text and tokens

    def tokens(
        self,
        text: Text,
        *,
        mask: Tensor | None = None,
        types: Tensor | None = None,
        bos: bool | None = None,
    ) -> Batch:
        """Rows of token ids from texts or ids. `mask` (B, T) marks real tokens of a padded tensor,
        on either side; `types` (B, T) are BERT's token types; `bos` overrides the tokenizer's
        habit. TokenError for text without a tokenizer and for ids outside the vocabulary."""
        if isinstance(text, Batch):
            return text
        if isinstance(text, str):
            text = [text]
        if not isinstance(text, Tensor) and len(text) and isinstance(text[0], str):
            text = [self._encode(str(one), bos) for one in text]
        return Batch.of(text, mask, types, vocab_size=self.config.vocab_size)  # type: ignore[arg-type]

    def _encode(self, text: str, bos: bool | None) -> list[int]:
        if self.tokenizer is None:
            raise TokenError(f"{self.name} has no tokenizer: give token ids instead of text")
        ids = self.tokenizer.encode(text, bos)
        if not ids:
            raise TokenError("the text is empty: it needs at least one token")
        return ids

    def token_texts(self, tokens: Tensor) -> list[list[str]] | None:
        """The text of every id of rows (B, T); None without a tokenizer."""
        if self.tokenizer is None:
            return None
        return [self.tokenizer.token_texts(row) for row in tokens.tolist()]

    # Running

    def new_cache(self, rows: int, *, capacity: int = 0, planned: int = 0) -> Cache:
        """An empty cache for this view. `planned`: the total length for which length-dependent
        rotaries are set; 0 for the length reached."""
        cache = self.stack.new_cache(rows, self.plan, self.conditions, capacity)
        cache.planned = planned
        return cache

    def run(
        self,
        batch: Batch,
        *,
        cache: Cache | None = None,
        logits: Logits = "all",
        observer: Observer | None = None,
    ) -> Tensor:
        """One forward under this view, rows left-aligned: see `stack.forward.run`.

        Without an observer the view's edits are applied, and checked where there is no cache; an
        observer carries them itself (`program` makes such), else EditError. With a cache the first
        forward is the prompt, and no gradient is kept.
        """
        if cache is not None:
            cache.check(self.conditions, len(batch.lengths))
        own = None
        if observer is None and self.edits:
            own = observer = self.program()
            if cache is not None and cache.prompts:
                own.prompt_lengths = tuple(cache.prompts)
        elif not set(self.edits) <= set(getattr(observer, "edits", ())):
            raise EditError("the observer does not carry this view's edits; make it with `program`")
        out = forward.run(
            self.stack,
            batch,
            self.plan,
            cache=cache,
            observer=observer,
            logits=logits,
            v_first=self.v_first,
        )
        if own is not None and cache is None:
            own.check()
        return out

    def program(self, reads: Reads | None = None, sink: Sink | None = None) -> Program:
        """An observer that carries this view's edits, and readings where given."""
        program = Program(self.stack, self.plan, self.edits, reads, sink)
        if self.v_first == "first-step" and program.taps(STACK_STEP).wants("v_first"):
            raise SiteError(
                "v_first is no site of its own where the first step provides it: name v"
            )
        return program

    def logits(self, text: Text, **how: Any) -> Tensor:
        """Scores (B, T, V) in the layout of the input, without gradients (`run` and `record(grad=)`
        give those); columns of pads are undefined."""
        batch = self.tokens(text, **how)
        with torch.no_grad():
            return batch.restore(self.run(batch))

    def loss(self, text: Text, **how: Any) -> Loss:
        """Loss of each token given those before it (teacher forced), in nats."""
        from laminogram.evaluate.loss import loss

        return loss(self, self.tokens(text, **how))

    def generate(self, prompt: Text, **options: Any) -> Generation | Generations:
        """Continue one prompt or many: see `laminogram.infer.generate.generate`."""
        from laminogram.infer.generate import generate

        return generate(self, prompt, **options)

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
            layers=recording.numbers("layers", layers),
            steps=recording.numbers("steps", steps),
            new_tokens=new_tokens,
            phase=phase,
            options=options,
        )
        if any(given is not None for given in (mask, types, bos)):
            text = self.tokens(text, mask=mask, types=types, bos=bos)
        place = recording.destination(to)
        if isinstance(place, Path):
            if grad is not None:
                raise ConfigError("gradients are recorded into memory: give to= a device")
            return recording.to_folder(self, text, request, place, shard_size)
        return recording.record(self, text, request, place, grad)

    def measure(
        self,
        texts: Text,
        statistics: str | Sequence[Any] = ("moments",),
        sites: str | Sequence[str] = ("ffn_out",),
        layers: int | Iterable[int] | None = None,
        *,
        batch_size: int = 8,
        first_document: int = 0,
        progress: bool = True,
    ) -> Measurement:
        """Streaming statistics at sites, storing no activation: see `probe.measuring`."""
        from laminogram.probe.measuring import measure

        return measure(self, texts, statistics, sites, layers, batch_size, progress, first_document)

    def show_cos_distance(self, layer: int, text: Text) -> CosDistance:
        """How far a layer turns the hidden state: cosine of its input and output, per token."""
        from laminogram.probe.look import show_cos_distance

        return show_cos_distance(self, text, layer)

    def show_topk_token(self, layer: int, text: Text, K: int = 10) -> TopTokens:
        """What the model would say if it stopped at a layer: the K likeliest tokens."""
        from laminogram.probe.look import show_topk_token

        return show_topk_token(self, text, layer, K)

    def show_attention(
        self, layer: int, token_a: int | str, token_b: int | str, text: Text
    ) -> AttentionBetween:
        """The attention between two tokens, given by position or by text, head by head."""
        from laminogram.probe.look import show_attention

        return show_attention(self, text, layer, token_a, token_b)


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
    from laminogram.checkpoint.load import open_model

    wanted = None if dtype is None else precision_dtype(dtype)
    opened = open_model(path_or_name, dtype=wanted, device=device, **settings)
    plan = opened.stack.full_plan()
    return View(opened.stack, opened.tokenizer, opened.name, plan, source=opened)


def precision_dtype(precision: str | torch.dtype) -> torch.dtype:
    """A precision by name; ConfigError names those that exist."""
    if precision in (torch.float64, *PRECISIONS.values()):
        return precision
    if isinstance(precision, torch.dtype) or precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is unknown; there are {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def _converted(stack: Stack, precision: str | torch.dtype) -> Stack:
    """The stack with its weights in another precision, tensor by tensor; itself where they are."""
    dtype = precision_dtype(precision)
    if dtype == stack.dtype:
        return stack
    other = Stack(stack.config, device="meta")
    for path, parameter in stack.named_parameters():
        owner, _, name = path.rpartition(".")
        copy = torch.nn.Parameter(parameter.detach().to(dtype), parameter.requires_grad)
        setattr(other.get_submodule(owner), name, copy)
    return other
