"""Three skills as lines of plain text: adding, copying, sorting. Seeded, with problems held out.

    python zoo/skills.py sorting --count 5              # lines as a model is trained on
    python zoo/skills.py addition --count 5 --held-out  # problems that no training text contains

| skill | a line | what varies |
| --- | --- | --- |
| addition | `12+57=69` | two numbers of two digits |
| copying | `copy: k d w = k d w` | 3 to 6 letters |
| sorting | `sort: 5291 = 1259` | 3 to 6 digits |

A tenth of the problems is held out by a hash of what makes a problem: of the two numbers in either
order, of the letters in order, of the digits in any order. So no training line has the sum of a
held-out pair the other way round, or a held-out answer to sort.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

LETTERS = "abcdefghjklmnoprstuvwy"  # those that are one token after a space in the zoo's tokenizer
HELD_OUT = 10  # one problem in so many


@dataclass(frozen=True)
class Problem:
    """`prompt + answer` is one line, with its end; `key` is the same for equivalent problems."""

    prompt: str
    answer: str
    key: str
    items: int

    @property
    def held_out(self) -> bool:
        """Whether this problem is kept from training, wherever and whenever it is drawn."""
        return blake2b(self.key.encode(), digest_size=8).digest()[0] % HELD_OUT == 0


def addition(draw: random.Random) -> Problem:
    a, b = draw.randrange(10, 100), draw.randrange(10, 100)
    return Problem(f"{a}+{b}=", f"{a + b}\n", f"addition {min(a, b)} {max(a, b)}", 2)


def copying(draw: random.Random) -> Problem:
    letters = " ".join(draw.choice(LETTERS) for _ in range(draw.randint(3, 6)))
    return Problem(
        f"copy: {letters} =", f" {letters}\n", f"copying {letters}", len(letters) // 2 + 1
    )


def sorting(draw: random.Random) -> Problem:
    digits = "".join(draw.choice("0123456789") for _ in range(draw.randint(3, 6)))
    answer = "".join(sorted(digits))
    return Problem(f"sort: {digits} =", f" {answer}\n", f"sorting {answer}", len(digits))


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
    """`count` different problems that are in no training text."""
    different: dict[str, Problem] = {}
    for problem in problems(skill, seed, held_out=True):
        if len(different) == count:
            break
        different[problem.prompt] = problem
    return list(different.values())


def documents(skill: str, lines: int, seed: int, length: int = 8) -> Iterator[str]:
    """Training text: `lines` lines in documents of `length`, so that many lines are a first one."""
    source = problems(skill, seed)
    for begin in range(0, lines, length):
        page = islice(source, min(length, lines - begin))
        yield "".join(problem.prompt + problem.answer for problem in page)


def main(argv: list[str] | None = None) -> None:
    """Command line: see the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("skill", choices=SKILLS)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true")
    args = parser.parse_args(argv)
    for problem in islice(problems(args.skill, args.seed, held_out=args.held_out), args.count):
        print(problem.prompt + problem.answer, end="")


if __name__ == "__main__":
    main()
