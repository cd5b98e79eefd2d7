"""The plan language: plans as text, and text as plans.

    0-31                        the whole stack
    0-7, 25-31                  skip the middle
    0-7, 24-8, 25-31            the middle reversed
    0-7, mean(8-24), 25-31      the middle in parallel: each layer reads the same input
    0-7, 3x(mean(8-24)), 25-31  looped three times
    0-7, 17x(16), 25-31         the middle replaced by one layer
    0-11, 12.attn, 13-31        only the attention half of layer 12
    0-3, mean(4-6 | 7, 8), 9-31 two branches, each a plan, averaged
    none                        no layer at all

    plan  = "none" | item {"," item}
    item  = layer ["-" layer] | layer "." ("attn" | "ffn")
          | times "x(" plan ")" | ("mean" | "sum") "(" plan {"|" plan} ")"

Without `|` every item in a group is a branch of its own. Printing is canonical: the longest
repetition becomes a loop, and neighbours that count up or down become a range.
"""

from __future__ import annotations

import re
from typing import NoReturn

from laminogram.errors import PlanError
from laminogram.plans.plan import MOST_NESTED, MOST_STEPS, Group, Item, Kind, Part, Plan, Step
from laminogram.plans.shape import shape_of, shape_text

_TOKEN = re.compile(r"\s*(?P<token>\d+|[A-Za-z]+|[-.,|()]|\S)")
_EXPECTED = "a layer (7), a range (0-7), half a layer (7.attn), 3x(...), mean(...) or sum(...)"


def parse(text: str) -> Plan:
    """The plan that a text stands for; PlanError names the place where it is none."""
    reader = _Reader(text)
    items = reader.items(0)
    if reader.token:
        reader.fail("a comma or the end")
    return Plan(items)


class _Reader:
    """Reads tokens from left to right. Items stay as they are written: halves are not merged,
    because in a group each is a branch of its own."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._found = list(_TOKEN.finditer(text))
        self._next = 0

    @property
    def token(self) -> str:
        """The token that comes next; empty at the end."""
        return self._found[self._next]["token"] if self._next < len(self._found) else ""

    def fail(self, expected: str) -> NoReturn:
        """Raise PlanError: here, something else was expected."""
        if not self.token:
            raise PlanError(f"the plan {self.text!r} ends where {expected} was expected")
        place = self._found[self._next].start("token") + 1
        raise PlanError(
            f"{self.token!r} at character {place} of the plan {self.text!r}: expected {expected}"
        )

    def take(self, *wanted: str) -> bool:
        """Step over the next token if it is one of these."""
        if self.token.lower() not in wanted or not self.token:
            return False
        self._next += 1
        return True

    def need(self, wanted: str, meaning: str) -> None:
        """Step over this token; PlanError where it is another one."""
        if not self.take(wanted):
            self.fail(meaning)

    def items(self, depth: int) -> list[Item]:
        """Items up to what no comma follows."""
        if depth > MOST_NESTED:
            raise PlanError(f"the plan {self.text!r} is nested deeper than {MOST_NESTED} times")
        if self.take("none"):
            return self._nothing()
        found = self._item(depth)
        while self.take(","):
            found += self._item(depth)
            if len(found) > MOST_STEPS:
                self._too_long()
        return found

    def _nothing(self) -> list[Item]:
        if self.token == ",":
            raise PlanError(
                f"none stands alone in a plan or a branch, as in mean(none | 7); in {self.text!r} "
                "more follows it"
            )
        return []

    def _item(self, depth: int) -> list[Item]:
        if self.take("mean"):
            return [self._group("mean", depth)]
        if self.take("sum"):
            return [self._group("sum", depth)]
        if not self.token.isdecimal():
            self.fail(_EXPECTED)
        first = self._number()
        if self.take("x"):
            return self._loop(first, depth)
        if self.take("."):
            return [Step(first, self._half())]
        if self.take("-"):
            return self._range(first)
        return [Step(first)]

    def _number(self) -> int:
        if not self.token.isdecimal():
            self.fail("the number of a layer")
        if len(self.token) > 9:
            self.fail("a number of at most 9 digits")
        self._next += 1
        return int(self._found[self._next - 1]["token"])

    def _half(self) -> Part:
        if self.take("attn"):
            return "attn"
        if self.take("ffn"):
            return "ffn"
        self.fail("attn or ffn")

    def _range(self, first: int) -> list[Item]:
        last = self._number()
        if abs(last - first) >= MOST_STEPS:
            self._too_long()
        stride = 1 if last >= first else -1
        return [Step(layer) for layer in range(first, last + stride, stride)]

    def _loop(self, times: int, depth: int) -> list[Item]:
        self.need("(", "( after the x of a loop")
        body = self.items(depth + 1)
        self.need(")", "a comma or )")
        if times < 1:
            raise PlanError(f"a loop in the plan {self.text!r} runs {times} times; at least 1 is")
        if len(body) * times > MOST_STEPS:
            self._too_long()
        return body * times

    def _group(self, kind: Kind, depth: int) -> Group:
        self.need("(", f"( after {kind}")
        branches = [self.items(depth + 1)]
        while self.take("|"):
            branches.append(self.items(depth + 1))
        self.need(")", "a comma, | or )")
        if len(branches) == 1:
            branches = [[item] for item in branches[0]]
        if not branches:
            raise PlanError(f"{kind}(none) in the plan {self.text!r} has no branch")
        return Group(kind, tuple(Plan(branch) for branch in branches))

    def _too_long(self) -> NoReturn:
        raise PlanError(f"the plan {self.text!r} has more than {MOST_STEPS} steps")


def write(plan: Plan) -> str:
    """The canonical text of a plan."""
    return shape_text(shape_of(plan))
