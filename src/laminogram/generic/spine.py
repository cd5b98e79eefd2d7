"""The way through a model of `transformers`: what it does before its layers, the layers, the rest.

A model computes positions, masks and rotary tables itself and hands them to its layers. To learn
them for any plan, its own forward is run once with a relay in the place of each layer, which notes
what the layer would have been given and passes the hidden state on. The model is left as it is: the
relays sit in shallow copies of the modules above the layers.

Axes: B rows, T tokens, C channels, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from laminogram.errors import FamilyError

HIDDEN = "hidden_states"


@dataclass(frozen=True)
class Call:
    """What a model gives a layer beside the hidden state."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    by_name: bool

    def __call__(self, layer: nn.Module, x: Tensor) -> Any:
        """The layer's own answer for `x`."""
        if self.by_name:
            return layer(*self.args, **{HIDDEN: x}, **self.kwargs)
        return layer(x, *self.args, **self.kwargs)

    def mapped(self, change: Any) -> Call:
        """The same with every argument changed."""
        kwargs = {name: change(value) for name, value in self.kwargs.items()}
        return Call(tuple(map(change, self.args)), kwargs, self.by_name)


@dataclass
class Log:
    """One run of the relays: what they were given. With `given` they pass that on instead; with
    `through` each layer runs, and its answer is kept."""

    given: Tensor | None = None
    through: bool = False
    entered: list[Tensor] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)


_LOG: ContextVar[Log] = ContextVar("log")


class _Relay(nn.Module):
    """Stands for one layer: whatever else is asked of it, the layer answers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.__dict__["_layer"] = layer
        self.parts = 0  # how many values the layer answers with; 0 for a bare tensor

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_layer"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        log, by_name = _LOG.get(), HIDDEN in kwargs
        x = kwargs.pop(HIDDEN) if by_name else args[0]
        call = Call(args if by_name else args[1:], kwargs, by_name)
        log.entered.append(x)
        log.calls.append(call)
        if log.through:
            answer = call(self.__dict__["_layer"], x)
            self.parts = len(answer) if isinstance(answer, tuple) else 0
            log.answers.append(answer)
            return answer
        x = x if log.given is None else log.given
        return (x, *[None] * (self.parts - 1)) if self.parts else x


class _Answer(nn.Module):
    """Stands for everything below the head: answers with an output made beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.below: frozenset[str] = frozenset()

    def __getattr__(self, name: str) -> Any:
        return self if name in self.__dict__.get("below", ()) else super().__getattr__(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _OUTPUT.get()


_OUTPUT: ContextVar[Any] = ContextVar("output")


class Spine:
    """A model of `transformers` with the place of its layers.

    FamilyError where the layers cannot be found.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.base = cast(PreTrainedModel, model.base_model)
        if self.base is model:
            raise FamilyError(f"{type(model).__name__} has no base model under its head")
        self.path = _path_to_layers(self.base, model.config.get_text_config().num_hidden_layers)
        self.layers = list(cast(nn.ModuleList, self.base.get_submodule(".".join(self.path))))
        self._front = _replaced(self.base, self.path, nn.ModuleList(map(_Relay, self.layers)))
        answer = _Answer()
        answer.below = frozenset(self.path[:-1])
        self._head = _replaced(model, [model.base_model_prefix], answer)
        self.accepts = set(inspect.signature(self.base.forward).parameters)
        self._output: type = dict
        self.table = cast(nn.Embedding, model.get_input_embeddings())

    def front(self, log: Log, **inputs: Any) -> Tensor:
        """Run the model around its relays: what it answers below the head, (B, T, C).

        `inputs` that the model does not know are left out.
        """
        known = {name: x for name, x in inputs.items() if name in self.accepts and x is not None}
        token = _LOG.set(log)
        try:
            out = self._front(**known, return_dict=True)
        finally:
            _LOG.reset(token)
        self._output = type(out)
        return cast(Tensor, out.last_hidden_state)

    def final(self, x: Tensor) -> Tensor:
        """What the model makes of `x` (..., C), as it leaves the last layer, before the head."""
        rows = x.reshape(-1, 1, x.shape[-1])
        start = rows.new_zeros(rows.shape[0], 1, self.table.embedding_dim)
        out = self.front(Log(given=rows), inputs_embeds=start, use_cache=False)
        return out.view(*x.shape[:-1], out.shape[-1])

    def head(self, x: Tensor) -> Tensor:
        """Logits (..., V) of what enters the head, (..., C)."""
        rows = x.reshape(1, -1, x.shape[-1])
        ids = torch.zeros(rows.shape[:2], dtype=torch.long, device=x.device)
        token = _OUTPUT.set(self._output(last_hidden_state=rows))
        try:
            logits = cast(Tensor, self._head(input_ids=ids, return_dict=True).logits)
        finally:
            _OUTPUT.reset(token)
        return logits.view(*x.shape[:-1], logits.shape[-1])

    @property
    def around(self) -> dict[str, nn.Module]:
        """Every module beside the layers, by its path in the model: the children of those above."""
        found: dict[str, nn.Module] = {}
        above, owner = "", cast(nn.Module, self.model)
        for name in (self.model.base_model_prefix, *self.path):
            found |= {above + other: one for other, one in owner.named_children() if other != name}
            above, owner = f"{above}{name}.", owner.get_submodule(name)
        return found


def _path_to_layers(base: nn.Module, count: int) -> list[str]:
    """The names that lead from the base model to its list of layers."""
    lists = {name: len(one) for name, one in base.named_modules() if isinstance(one, nn.ModuleList)}
    found = [name for name, length in lists.items() if length == count]
    outer = [name for name in found if not any(name.startswith(f"{top}.") for top in found)]
    if len(outer) != 1:
        listed = ", ".join(f"{name} of {length}" for name, length in lists.items()) or "none"
        raise FamilyError(
            f"{type(base).__name__} does not show which modules are its {count} layers; its lists "
            f"are {listed}"
        )
    return outer[0].split(".")


def _replaced(module: nn.Module, path: list[str], child: nn.Module) -> nn.Module:
    """A shallow copy with another module at `path`; the modules on the way there are copied too."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    inner = cast(nn.Module, module._modules[path[0]])
    twin._modules[path[0]] = child if len(path) == 1 else _replaced(inner, path[1:], child)
    return twin
