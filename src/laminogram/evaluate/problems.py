"""Adding, copying, sorting: problems with right answers, some of which no training text contains.

| skill | prompt and answer | what varies |
| --- | --- | --- |
| addition | `12+57=69` | two numbers of two digits |
| copying | `copy: k d w = k d w` | 3 to 6 letters |
| sorting | `sort: 5291 = 1259` | 3 to 6 digits |

A tenth of the problems is held out by a hash of what makes a problem: of the two numbers in either
order, of the letters in order, of the digits in any order. So no training line has the sum of a
held-out pair the other way round, or a held-out answer to sort.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

LETTERS = "abcdefghjklmnoprstuvwy"
"""Those that are one token after a space in the tokenizer of the zoo's models."""
HELD_OUT = 10
"""One problem in so many is held out."""


@dataclass(frozen=True)
class Problem:
    """`prompt + answer` is one line, its end included; `key` is the same for equivalent problems,
    `items` how many numbers, letters or digits it has."""

    prompt: str
    answer: str
    key: str
    items: int

    @property
    def held_out(self) -> bool:
        """Whether it is kept from training, wherever and whenever it is drawn."""
        return blake2b(self.key.encode(), digest_size=8).digest()[0] % HELD_OUT == 0


def addition(draw: random.Random) -> Problem:
    """Two numbers of two digits."""
    a, b = (draw.randrange(10, 100) for _ in range(2))
    return Problem(f"{a}+{b}=", f"{a + b}\n", "addition {} {}".format(*sorted((a, b))), 2)


def copying(draw: random.Random) -> Problem:
    """Letters to repeat."""
    letters = [draw.choice(LETTERS) for _ in range(draw.randint(3, 6))]
    text = " ".join(letters)
    return Problem(f"copy: {text} =", f" {text}\n", f"copying {text}", len(letters))


def sorting(draw: random.Random) -> Problem:
    """Digits to put in order."""
    digits = [draw.choice("0123456789") for _ in range(draw.randint(3, 6))]
    answer = "".join(sorted(digits))
    return Problem(f"sort: {''.join(digits)} =", f" {answer}\n", f"sorting {answer}", len(digits))


SKILLS: dict[str, Callable[[random.Random], Problem]] = {
    "addition": addition,
    "copying": copying,
    "sorting": sorting,
}


def problems(skill: str, seed: int, *, held_out: bool = False) -> Iterator[Problem]:
    """Problems of one side of the split without end; a training problem may come again."""
    draw, make = random.Random(f"{skill} {seed} {held_out}"), SKILLS[skill]
    while True:
        problem = make(draw)
        if problem.held_out == held_out:
            yield problem


def held_out_problems(skill: str, count: int, seed: int = 0) -> list[Problem]:
    """`count` different held-out problems; the same seed gives the same ones."""
    found: dict[str, Problem] = {}
    for problem in problems(skill, seed, held_out=True):
        if len(found) == count:
            break
        found.setdefault(problem.prompt, problem)
    return list(found.values())
