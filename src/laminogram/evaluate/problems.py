"""Adding, copying, sorting: problems with right answers, some of which no training text contains.

| skill | prompt and answer | what varies |
| --- | --- | --- |
| addition | `12+57=69` | two numbers of two digits |
| copying | `copy: k d w = k d w` | 3 to 6 letters |
| sorting | `sort: 5291 = 1259` | 3 to 6 digits |

The formats, and the tenth that is held out by a hash of what makes a problem, are those on which
the small models of the zoo were trained.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

LETTERS = "abcdefghjklmnoprstuvwy"
HELD_OUT = 10
"""One problem in so many is held out."""


@dataclass(frozen=True)
class Problem:
    """`prompt + answer` is one line, its end included; equal `key`, equal problem."""

    prompt: str
    answer: str
    key: str

    @property
    def held_out(self) -> bool:
        """Whether no training text has it, nor one that is the same in another order."""
        return blake2b(self.key.encode(), digest_size=8).digest()[0] % HELD_OUT == 0


def addition(draw: random.Random) -> Problem:
    """Two numbers of two digits."""
    a, b = (draw.randrange(10, 100) for _ in range(2))
    return Problem(f"{a}+{b}=", f"{a + b}\n", "addition {} {}".format(*sorted((a, b))))


def copying(draw: random.Random) -> Problem:
    """Letters to repeat."""
    text = " ".join(draw.choice(LETTERS) for _ in range(draw.randint(3, 6)))
    return Problem(f"copy: {text} =", f" {text}\n", f"copying {text}")


def sorting(draw: random.Random) -> Problem:
    """Digits to put in order."""
    digits = [draw.choice("0123456789") for _ in range(draw.randint(3, 6))]
    answer = "".join(sorted(digits))
    return Problem(f"sort: {''.join(digits)} =", f" {answer}\n", f"sorting {answer}")


SKILLS: dict[str, Callable[[random.Random], Problem]] = {
    "addition": addition,
    "copying": copying,
    "sorting": sorting,
}


def held_out_problems(skill: str, count: int, seed: int = 0) -> list[Problem]:
    """`count` different held-out problems; the same seed gives the same ones."""
    draw, make = random.Random(f"{skill} {seed} True"), SKILLS[skill]
    found: dict[str, Problem] = {}
    while len(found) < count:
        problem = make(draw)
        if problem.held_out:
            found.setdefault(problem.prompt, problem)
    return list(found.values())
