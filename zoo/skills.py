"""Training text of three skills, adding, copying and sorting, as lines with problems held out.

    python zoo/skills.py sorting --count 5              # lines as a model is trained on
    python zoo/skills.py addition --count 5 --held-out  # problems that no training text contains

What a problem is, and which are held out, stands in `laminogram.evaluate.problems`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice

from laminogram.evaluate.problems import SKILLS, problems


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
