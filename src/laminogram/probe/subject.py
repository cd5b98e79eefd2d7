"""The subject: a stack under conditions (plan, edits, side streams), with what runs it.

Everything that looks at a model takes a subject: it reads text, runs forwards, makes caches and
programs, and says in a manifest what it is. `laminogram.View` is a subject with every method that
one calls on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from laminogram.checkpoint.fingerprint import fingerprint
from laminogram.errors import ConfigError, EditError, PlanError, SiteError, TokenError
from laminogram.plans import Plan
from laminogram.plans.tree import PlanTree
from laminogram.probe.card import Card, make_card
from laminogram.probe.edits import Edit
from laminogram.probe.program import Effects, Program, Reads, Sink, check_effects
from laminogram.probe.weight_edits import WeightEdit, edited
from laminogram.stack import forward, sweep
from laminogram.stack.batch import Batch
from laminogram.stack.cache import Cache
from laminogram.stack.conditions import KeysAndValues, Provision, check_plan
from laminogram.stack.config import StackConfig
from laminogram.stack.context import Context
from laminogram.stack.forward import Logits
from laminogram.stack.linear import kept_dtype
from laminogram.stack.quantise import DTYPES, Scheme, grammar, quantised
from laminogram.stack.sites import STACK_STEP
from laminogram.stack.stack import Stack
from laminogram.stack.taps import Observer
from laminogram.tokenizers import Tokenizer

Text = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor | Batch
PRECISIONS = DTYPES


@dataclass(frozen=True)
class Subject:
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
    kv: KeysAndValues = "exact"
    source: Any = None
    weight_edits: tuple[WeightEdit, ...] = ()

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

    @property
    def precision(self) -> str:
        """The dtype, or what the weights are quantised to: `float32`, `fp32+int8`."""
        return str(self.stack.quantised or self.dtype).removeprefix("torch.")

    @cached_property
    def conditions(self) -> str:
        """Plan, edits, precision and readings as text."""
        edits = "; ".join(self._edit_texts()) or "none"
        readings = f"v_first {self.v_first}, kv {self.kv}"
        return f"plan {self.plan}, edits {edits}, {self.precision}, {readings}"

    @property
    def memory(self) -> str:
        """What a cache belongs to, as text: the model by its name, and the conditions."""
        return f"{self.name}, {self.conditions}"

    def card(self) -> Card:
        """Size by part, memory by precision, cache and state; prints well."""
        return make_card(
            self.stack,
            self.plan,
            self.name,
            tokenizer=self.tokenizer is not None,
            begins_with=self._begins_with(),
            kv=self.kv,
        )

    def facts(self) -> dict[str, Any]:
        """What a manifest says of the view: model, weights hash, precision, plan, edits."""
        return {
            "model": self.name,
            "family": self.config.family,
            "weights_hash": fingerprint(self.stack),
            "precision": self.precision,
            "quantised": self.stack.quantised and self.stack.quantised.facts(),
            "device": str(self.device),
            "plan": str(self.plan),
            "edits": self._edit_texts(),
            "v_first": self.v_first,
            "kv": self.kv,
            "bos_token_id": self.config.bos_token_id,
            "begins_with": self._begins_with(),
        }

    def _edit_texts(self) -> list[str]:
        """Every edit as text: those of weights, which `stack` has already, then those at sites."""
        return [str(edit) for edit in (*self.weight_edits, *self.edits)]

    def _begins_with(self) -> list[str] | None:
        """The names of the tokens that texts begin with, none where BOS is off; None without a
        tokenizer."""
        if self.tokenizer is None:
            return None
        return [self.tokenizer.name_of(one) or str(one) for one in self.tokenizer.prefix]

    def __repr__(self) -> str:
        count = len(self._edit_texts())
        edits = f", {count} edit{'s' if count > 1 else ''}" if count else ""
        precision = f", {self.precision}" if self.stack.quantised else ""
        kv = f", kv {self.kv}" if self.kv != "exact" else ""
        return f"<{self.name}: {self.config.family}, plan {self.plan}{edits}{precision}{kv}>"

    # Conditions

    def using(
        self,
        plan: Plan | str | Iterable[int] | None = None,
        edits: Edit | WeightEdit | Iterable[Edit | WeightEdit] = (),
        precision: str | torch.dtype | None = None,
        v_first: Provision | None = None,
        kv: KeysAndValues | None = None,
    ) -> Self:
        """The same weights under other conditions.

        plan replaces this view's plan; edits are added to its edits, after them, and those of
        weights act before the precision; precision converts a copy of the weights (`fp32`, `bf16`,
        `fp16`) or quantises it (`int8`, `w8a8`, `llm.int8`, `bf16+int4-g128`, `fp8-blocks`, ...:
        see `stack.quantise.scheme`); v_first chooses how RWKV-7's side stream is provided
        (`embedding` or `first-step`); kv whether each step of a parallel group remembers its own
        keys and values (`exact`) or the group their mean (`averaged`, as in the code of
        "Transformer Layers as Painters"). PlanError, SiteError or EditError say what does not
        exist.
        """
        wanted = self.plan if plan is None else Plan.of(plan)
        v_first, kv = v_first or self.v_first, kv or self.kv
        check_plan(wanted, self.config, v_first, kv)
        if isinstance(edits, Edit | WeightEdit | str) or not isinstance(edits, Iterable):
            edits = (edits,)
        added = tuple(edits)
        for one in added:
            if not isinstance(one, Edit | WeightEdit):
                raise EditError(
                    f"{one!r} is no edit; laminogram.edits makes them: edits.zero('ffn_out')"
                )
        of_weights = tuple(one for one in added if isinstance(one, WeightEdit))
        stack = edited(self.stack, of_weights)
        if precision is not None:
            stack = _converted(stack, precision)
        view = replace(
            self,
            stack=stack,
            plan=wanted,
            edits=self.edits + tuple(one for one in added if isinstance(one, Edit)),
            weight_edits=self.weight_edits + of_weights,
            v_first=v_first,
            kv=kv,
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
        habit. TokenError for text without a tokenizer, for ids outside the vocabulary, for types
        that the model has not, and for what would have no effect on a batch that exists or on ids.
        """
        if isinstance(text, Batch):
            if any(given is not None for given in (mask, types, bos)):
                raise TokenError("a batch has its mask, types and first tokens: give no others")
            return text
        if isinstance(text, str):
            text = [text]
        if not isinstance(text, Tensor | Sequence | np.ndarray):
            raise TokenError(f"a text, token ids or a list of them was expected, not {text!r:.60}")
        if not isinstance(text, Tensor) and len(text) and isinstance(text[0], str):
            odd = next((one for one in text if not isinstance(one, str)), None)
            if odd is not None:
                raise TokenError(f"texts and ids do not mix in one list: {odd!r} is no text")
            text = [self._encode(str(one), bos) for one in text]
        elif bos is not None:
            raise TokenError("bos says how texts begin; these are ids, which begin as they are")
        mask, types = (None if x is None else torch.as_tensor(x) for x in (mask, types))
        batch = Batch.of(text, mask, types, vocab_size=self.config.vocab_size)  # type: ignore[arg-type]
        return batch if types is None else self._typed(batch)

    def _typed(self, batch: Batch) -> Batch:
        """The batch with its types checked, 0 at pads; TokenError for one that does not exist."""
        assert batch.types is not None
        types = torch.where(batch.mask, batch.types, 0)
        count = self.config.embedding.types or 1
        odd = types[(types < 0) | (types >= count) | (types != types.long())]
        if odd.numel():
            there = f"0 to {count - 1}" if count > 1 else "none but 0"
            raise TokenError(f"{self.name} has no token type {odd[0].item()}: it has {there}")
        return replace(batch, types=types.long())

    def _encode(self, text: str, bos: bool | None) -> list[int]:
        ids = self.needed_tokenizer().encode(text, bos)
        if not ids:
            raise TokenError("the text is empty: it needs at least one token")
        return ids

    def needed_tokenizer(self) -> Tokenizer:
        """The tokenizer; TokenError says that there is none, and what would help."""
        if self.tokenizer is None:
            why = getattr(self.source, "tokenizer_missing", "")
            why = why or "none of its files lies beside the weights"
            raise TokenError(
                f"{self.name} has no tokenizer: give token ids instead of text ({why})"
            )
        return self.tokenizer

    def token_texts(self, tokens: Tensor) -> list[list[str]] | None:
        """The text of every id of rows (B, T); None without a tokenizer."""
        if self.tokenizer is None:
            return None
        return [self.tokenizer.token_texts(row) for row in tokens.tolist()]

    # Running

    def new_cache(self, rows: int, *, capacity: int = 0, planned: int = 0) -> Cache:
        """An empty cache for this view. `planned`: the total length for which length-dependent
        rotaries are set; 0 for the length reached."""
        cache = self.stack.new_cache(rows, self.plan, self.memory, capacity, self.kv)
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
            cache.check(self.memory, len(batch.lengths))
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

    def sweep(
        self,
        plans: Iterable[Plan | str] | PlanTree,
        batch: Batch,
        *,
        logits: Logits = "all",
        ctx: Context | None = None,
        columns: Tensor | None = None,
        effects: Effects | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Run many plans over one batch, what they share at their beginning once.

        Yields (number of the plan, what `run` gives under it), rows left-aligned, in the order of
        the tree (`PlanTree`, whose text says what is saved). This view's edits act in every plan.
        ctx, columns: as in `stack.sweep.sweep`, columns for views without edits. effects: where
        this is one batch of many, a list that gets what the edits did, for who judges all of them.
        PlanError or SiteError name a plan that cannot run so, before anything runs.
        """
        tree = plans if isinstance(plans, PlanTree) else PlanTree(map(Plan.of, plans))
        programs = []
        for number, plan in enumerate(tree.plans):
            try:
                check_plan(plan, self.config, self.v_first, self.kv)
                if self.edits:
                    programs.append(replace(self, plan=plan).program())
            except (PlanError, SiteError) as error:
                raise type(error)(f"plan {number}: {error}") from error
        how: dict[str, Any] = {"logits": logits, "ctx": ctx, "columns": columns}
        return self._swept(tree, batch, programs, effects, **how)

    def _swept(
        self,
        tree: PlanTree,
        batch: Batch,
        programs: Sequence[Program],
        effects: Effects | None,
        **how: Any,
    ) -> Iterator[tuple[int, Tensor]]:
        yield from sweep.sweep(
            self.stack,
            batch,
            tree,
            observers=programs or None,
            v_first=self.v_first,
            **how,
        )
        found = [row for program in programs for row in program.effects()]
        if effects is None:
            check_effects(found)
        else:
            effects += found

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


def precision_dtype(precision: str | torch.dtype) -> torch.dtype:
    """A precision by name; ConfigError names those that exist."""
    if precision in (torch.float64, *PRECISIONS.values()):
        return precision
    if isinstance(precision, torch.dtype) or precision not in PRECISIONS:
        raise ConfigError(
            f"precision {precision!r} is unknown; there are {', '.join(PRECISIONS)}, and for "
            f"view.using: {grammar()}"
        )
    return PRECISIONS[precision]


def _converted(stack: Stack, precision: str | torch.dtype) -> Stack:
    """The stack with its weights in another precision, tensor by tensor; itself where they are."""
    if isinstance(precision, str) and precision not in PRECISIONS:
        return quantised(stack, Scheme.parse(precision))
    dtype = precision_dtype(precision)
    if stack.quantised is not None:
        raise ConfigError(
            f"the weights are {stack.quantised} already: give the precision with the format, as in "
            "bf16+int8, to the model they were made from"
        )
    if dtype == stack.dtype:
        return stack
    convert = getattr(stack, "converted", None)
    if convert is not None:  # a stack that is not made from its configuration alone
        return cast(Stack, convert(dtype))
    other = Stack(stack.config, device="meta")
    for path, parameter in stack.named_parameters():
        owner, _, name = path.rpartition(".")
        kept = parameter.detach().to(kept_dtype(other, path, dtype))
        copy = torch.nn.Parameter(kept, parameter.requires_grad)
        setattr(other.get_submodule(owner), name, copy)
    return other
