"""Which modules of a foreign layer say what is added to the residual: found by arithmetic.

No name is trusted. A copy of the layer in fp64 runs on random input; the modules are those whose
answers make up what leaves the layer, and that still do when their answers are changed by a hook,
as an edit will change them. A layer that none of the equations fits shows its two ends alone:

    pre       out = x + a + f, where f follows from a
    parallel  out = x + a + f, where it does not
    post      out = norm(m + f), m = norm(x + a)

`a` and `f` may be a module's answer times a number that the layer holds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from laminogram.errors import FamilyError
from laminogram.generic.spine import HIDDEN, Call
from laminogram.stack.config import Block

_PRECISIONS = {torch.float64: 1e-6, torch.float32: 1e-5}
"""What sums are exact to, relative to what leaves the layer: some layers keep parts of themselves
in fp32, and some products are not there in fp64."""
_TELLING = 100
"""An answer that is not so many times the tolerance cannot be told from none."""

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sublayer:
    """The module at `path` answers with what is added, but for a factor."""

    path: str
    scale: float = 1.0


@dataclass(frozen=True)
class Anatomy:
    """Where the sublayers of a layer are, as far as they were found.

    `mixer` is the child that mixes tokens; what it says may be changed on the way to `attn`.
    """

    block: Block = "pre"
    attn: Sublayer | None = None
    ffn: Sublayer | None = None
    attn_norm: str | None = None
    ffn_norm: str | None = None
    mixer: str | None = None


@dataclass(frozen=True)
class _Seen:
    """One run: what left the layer, and of each module called once what entered and left it."""

    out: Tensor
    entered: dict[str, Tensor]
    left: dict[str, Tensor]  # in the order of the run


def first(output: Any) -> Any:
    """The hidden state in what a module answers: the answer itself, or its first part."""
    return output[0] if isinstance(output, tuple) and output else output


def with_first(output: Any, x: Tensor) -> Any:
    """The answer with another hidden state, in the shape of the one that it has."""
    x = x.view(first(output).shape)
    return (x, *output[1:]) if isinstance(output, tuple) else x


def dissect(layer: nn.Module, call: Call, size: Sequence[int]) -> Anatomy:
    """The anatomy of a layer that is given `call` with hidden states of `size` (B, T, C).

    FamilyError for a layer that writes on them.
    """
    for dtype, tolerance in _PRECISIONS.items():
        try:
            subject = _Subject(layer, call, size, dtype, tolerance)
        except (RuntimeError, NotImplementedError):  # a product that is not there in this dtype
            continue
        return subject.anatomy()
    return Anatomy()


class _Subject:
    """A copy of a layer in a precision of its own, to be run under changes."""

    def __init__(
        self,
        layer: nn.Module,
        call: Call,
        size: Sequence[int],
        dtype: torch.dtype,
        tolerance: float,
    ) -> None:
        device = next(layer.parameters()).device
        self.layer = copy.deepcopy(layer).to(dtype)
        self.call = call.mapped(lambda value: _cast(value, dtype))
        generator = torch.Generator().manual_seed(0)
        self.x, self.noise = torch.randn(2, *size, generator=generator, dtype=dtype).to(device)
        self.plain = self.run()
        self.near = tolerance * float(self.plain.out.abs().max())

    def run(self, x: Tensor | None = None, changes: Mapping[str, Change] | None = None) -> _Seen:
        """Run the layer, its modules' answers changed."""
        x = self.x if x is None else x
        entered: dict[str, Tensor] = {}
        left: dict[str, Tensor] = {}
        calls: dict[str, int] = {}

        def hook(path: str) -> Callable[..., Any]:
            def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
                calls[path] = calls.get(path, 0) + 1
                for found, value in (
                    (entered, args[0] if args else kwargs.get(HIDDEN)),
                    (left, first(output)),
                ):
                    # Some layers lay all tokens of all rows in one row.
                    if (
                        isinstance(value, Tensor)
                        and value.numel() == x.numel()
                        and value.shape[-1] == x.shape[-1]
                    ):
                        found[path] = value.reshape(x.shape).clone()
                if not changes or path not in changes or path not in left:
                    return None
                left[path] = changes[path](left[path])
                return with_first(output, left[path].clone())

            return keep

        with torch.no_grad(), ExitStack() as handles:
            for path, module in self.layer.named_modules():
                if path:
                    handle = module.register_forward_hook(hook(path), with_kwargs=True)
                    handles.callback(handle.remove)
            given = x.clone()
            out = first(self.call(self.layer, given))
        if not torch.equal(given, x):
            raise FamilyError(
                f"{type(self.layer).__name__} writes on the hidden state that it is given, so what "
                "others read there would change"
            )
        for path, count in calls.items():
            if count > 1:
                entered.pop(path, None)
                left.pop(path, None)
        return _Seen(out, entered, left)

    def anatomy(self) -> Anatomy:
        """The first equation that holds, and holds under changes."""
        known = [path for path, x in self.plain.left.items() if _top(x) > _TELLING * self.near]
        outer = sorted(known, key=lambda path: path.count("."))  # a module before what is inside it
        for found in (*self._sums(outer), *self._posts(outer)):
            if self._stands(found):
                return replace(found, mixer=self._mixer(found))
        return Anatomy()

    def same(self, a: Tensor, b: Tensor) -> bool:
        return _top(a - b) <= self.near

    def _sums(self, paths: Sequence[str]) -> Iterator[Anatomy]:
        """Layers whose output is their input and two answers, or one."""
        change, left = self.plain.out - self.x, self.plain.left
        order = list(left)
        for pair in (*combinations(paths, 2), *((path,) for path in paths)):
            scale = self._scale(change, torch.stack([left[path] for path in pair]).sum(0))
            if scale is None:
                continue
            early, *late = sorted(pair, key=order.index)
            yield from self._roles(early, late[0] if late else None, scale)

    def _roles(self, early: str, late: str | None, scale: float) -> Iterator[Anatomy]:
        """Who of the two mixes tokens, and whether the later one follows from the earlier."""
        mixes = self._mixing((early,) if late is None else (early, late))
        one, other = Sublayer(early, scale), None if late is None else Sublayer(late, scale)
        if late is None:
            yield Anatomy("pre", one, None) if mixes[early] else Anatomy("pre", None, one)
        elif not self.same(self.run(changes={early: self._noisy}).left[late], self._left(late)):
            if mixes[early]:
                yield Anatomy("pre", one, other)
        elif mixes[early] != mixes[late]:
            attn, ffn = (one, other) if mixes[early] else (other, one)
            yield Anatomy("parallel", attn, ffn)

    def _posts(self, paths: Sequence[str]) -> Iterator[Anatomy]:
        """Layers that end each half in a norm, over the sum."""
        seen = self.plain
        lasts = [p for p in seen.entered if p in seen.left and self.same(seen.left[p], seen.out)]
        for last in lasts:
            for norm in (p for p in seen.entered if p in seen.left and p not in lasts):
                a = self._equal(paths, seen.entered[norm] - self.x)
                f = self._equal(paths, seen.entered[last] - seen.left[norm])
                if a is not None and f is not None and self._mixing((a,))[a]:
                    yield Anatomy("post", Sublayer(a), Sublayer(f), norm, last)

    def _stands(self, found: Anatomy) -> bool:
        """Whether the equation still holds where each answer is another one."""
        for part in (found.attn, found.ffn):
            if part is not None and not self._holds(
                found, self.run(changes={part.path: self._noisy})
            ):
                return False
        return True

    def _holds(self, found: Anatomy, seen: _Seen) -> bool:
        a, f = (
            0 if part is None else seen.left[part.path] * part.scale
            for part in (found.attn, found.ffn)
        )
        if found.attn_norm is None or found.ffn_norm is None:
            return self.same(seen.out, self.x + a + f)
        return (
            self.same(seen.entered[found.attn_norm], self.x + a)
            and self.same(seen.entered[found.ffn_norm], seen.left[found.attn_norm] + f)
            and self.same(seen.out, seen.left[found.ffn_norm])
        )

    def _mixer(self, found: Anatomy) -> str | None:
        """The last child with a matrix that was run before the answer was there."""
        last = None
        for path in self.plain.left if found.attn is not None else ():
            child = path.split(".")[0]
            if any(weight.dim() > 1 for weight in self.layer.get_submodule(child).parameters()):
                last = child
            if found.attn is not None and path == found.attn.path:
                break
        return last

    def _scale(self, change: Tensor, said: Tensor) -> float | None:
        """The number of the layer's own by which `said` is `change`."""
        fitted = float((change * said).sum() / (said * said).sum())
        own = (value for value in vars(self.layer).values() if type(value) is float)
        for scale in (1.0, *own):
            if abs(scale - fitted) < 1e-3 and self.same(change, said * scale):
                return scale
        return None

    def _mixing(self, paths: Iterable[str]) -> dict[str, bool]:
        """Whether a module's answer for other tokens depends on the first."""
        other = self.x.clone()
        other[:, 0] += self.noise[:, 0]
        seen = self.run(other)
        return {path: not self.same(seen.left[path][:, 1:], self._left(path)[:, 1:])
                for path in paths}  # fmt: skip

    def _equal(self, paths: Iterable[str], x: Tensor) -> str | None:
        return next((path for path in paths if self.same(self._left(path), x)), None)

    def _left(self, path: str) -> Tensor:
        return self.plain.left[path]

    def _noisy(self, x: Tensor) -> Tensor:
        return x + self.noise


def _top(x: Tensor) -> float:
    return float(x.abs().max())


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Numbers in another precision, wherever they lie in an argument."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_cast(one, dtype) for one in value)
    if isinstance(value, dict):
        return {key: _cast(one, dtype) for key, one in value.items()}
    return value
