"""A Jinja sandbox whose templates end, soon and small.

Jinja's sandbox keeps a template from the interpreter, not from the clock: nested loops, recursive
macros, or a text doubled forty times go on for ever. Here every loop, every call of a macro and
every piece of text is paid from a budget of one rendering, and operations whose result may be far
larger than what goes in are paid before they run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from string import Formatter
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from laminogram.errors import TokenError

MAX_SIZE = 20_000_000
"""Characters and items that one rendering may make, all intermediate values together."""
MAX_SECONDS = 5.0
MAX_SOURCE = 200_000
"""Characters of a template."""
_ITEM = 16
"""What an item of a list counts as, in characters: about its memory, and its time to count."""
# Widths of more than 999, or taken from an argument, in "%9999d" and in the form of "{:>9999}".
_PERCENT_WIDTH = re.compile(r"%(\([^)]*\))?[-+ #0]*(\d{4,}|\*|\d*\.(\d{4,}|\*))")
_FORM_WIDTH = re.compile(r"\d{4,}|\{")
# Arguments of these may be numbers that say how long the result is.
_PADDING = {"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "batch", "slice"}
_PADDING |= {"wordwrap", "tojson", "round", "truncate", "filesizeformat"}
# Results of these may have the product of the lengths of what goes in.
_PRODUCT = {"join", "replace", "format", "translate", "xmlattr", "sum", "indent", "wordwrap"}


class _Budget:
    def __init__(self) -> None:
        self.left, self.end = MAX_SIZE, time.monotonic() + MAX_SECONDS

    def pay(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise TokenError(f"the chat template makes more than {MAX_SIZE} characters or items")
        if time.monotonic() > self.end:
            raise TokenError(f"the chat template runs for more than {MAX_SECONDS:g} seconds")


_BUDGET: ContextVar[_Budget] = ContextVar("budget")


@contextmanager
def bounded() -> Iterator[None]:
    """One rendering: what runs inside has one budget."""
    token = _BUDGET.set(_Budget())
    try:
        yield
    finally:
        _BUDGET.reset(token)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, set as chat templates expect it, within a budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            # What is folded when the template is compiled would escape the budget.
            optimized=False,
        )
        self.globals.pop("lipsum")
        self.globals["dict"] = dict
        self.globals["namespace"] = _PlainNamespace
        for name in list(self.filters):
            self.add_filter(name, self.filters[name])

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Add a filter, which pays for what it makes."""
        self.filters[name] = _paying(name, function)

    def compiled(self, source: str) -> Any:
        """A template from its text, every loop and output of which pays."""
        if len(source) > MAX_SOURCE:
            raise TokenError(f"the chat template has more than {MAX_SOURCE} characters")
        tree = _Charge().visit(self.parse(source))
        code = self.compile(tree)
        return self.template_class.from_code(self, code, self.make_globals(None))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Pay for a product, a sum, a power or a formatted text before it is made."""
        if operator == "**":
            bits = left.bit_length() * abs(right) if _whole(left) and _whole(right) else 64
            _pay(bits // 8)
        elif operator == "*":
            _pay(_factor(left, right) * _factor(right, left))
        else:
            if operator == "%" and isinstance(left, str):
                _refuse_width(_PERCENT_WIDTH, left)
            _pay(_size(left) + _size(right))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja's own formatting of `"...".format`, for widths that stand in the text alone."""
        formatting = super().wrap_str_format(value)
        if formatting is None:
            return None
        for _, _, form, _ in Formatter().parse(value.__self__):
            _refuse_width(_FORM_WIDTH, form or "")

        def paying(*args: Any, **kwargs: Any) -> str:
            _pay_for("format", (value.__self__, *args, *kwargs.values()))
            return formatting(*args, **kwargs)

        return paying

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Pay for a method of a text or a list before it is called."""
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str | list | tuple | dict):
            _pay_for(name, (owner, *args, *kwargs.values()))
        return super().call(context, function, *args, **kwargs)

    def pay_and_give(self, value: Any) -> Any:
        """What every piece of output passes through."""
        _pay(1 + _size(value))
        return value

    def concatenated(self, *parts: Any) -> str:
        """The operator `~`."""
        _pay(sum(map(_size, parts)))
        return "".join(map(str, parts))

    def step(self) -> str:
        """What every turn of a loop and every call of a macro passes through."""
        _pay(1)
        return ""


class _Charge(NodeTransformer):
    """Puts payments into a template's tree, by attributes that no template can name."""

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        parts = (
            nodes.Const(part.data) if isinstance(part, nodes.TemplateData) else part
            for part in node.nodes
        )
        node.nodes = [_call("pay_and_give", part) for part in parts]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("concatenated", *node.nodes)

    def _step(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("step"), lineno=node.lineno))
        return node

    visit_For = visit_Macro = visit_CallBlock = _step


class _Generation(Extension):
    """`{% generation %}`, by which training marks the assistant's words: here just text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _PlainNamespace(Namespace):
    """A namespace without private names."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a chat template may not set {name!r} on a namespace")
        super().__setitem__(name, value)


def _call(name: str, *args: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None)


def _factor(value: Any, other: Any) -> int:
    """What a factor contributes to the size of a product: a number repeats what is no number."""
    return max(abs(value), 1) if _whole(value) and not _whole(other) else _size(value)


def _paying(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    # Jinja passes its own objects first to functions that carry a mark, which `wraps` copies.
    own = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def paying(*args: Any, **kwargs: Any) -> Any:
        if name == "format":
            _refuse_width(_PERCENT_WIDTH, str(args[0]))
        _pay_for(name, (*args[own:], *kwargs.values()))
        return function(*args, **kwargs)

    return paying


def _pay_for(name: str, values: tuple[Any, ...]) -> None:
    """Pay for a function on these values: at least for what goes in."""
    numbers = sum(abs(value) for value in values if _whole(value)) if name in _PADDING else 0
    total = 1
    for value in values if name in _PRODUCT else ():
        total *= 1 + _size(value)
    _pay(total + sum(map(_size, values)) + numbers * max(1, _size(values[0])))


def _refuse_width(pattern: re.Pattern[str], form: str) -> None:
    if pattern.search(form):
        raise TokenError("the chat template formats a text to a width of more than 999 characters")


def _pay(size: int) -> None:
    _BUDGET.get().pay(size)


def _whole(value: Any) -> bool:
    return isinstance(value, int)


def _size(value: Any) -> int:
    """Characters and items of a value, counted until they exceed any budget."""
    size, waiting = 0, [value]
    while waiting and size <= MAX_SIZE:
        one = waiting.pop()
        if isinstance(one, str | bytes):
            size += len(one)
        elif isinstance(one, Mapping):
            size += _ITEM * len(one)
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            size += _ITEM * len(one)
            waiting += one
        elif isinstance(one, int):
            size += one.bit_length() // 8
        elif isinstance(one, range):
            size += _ITEM * len(one)
    return size
