"""The skills of the zoo: right answers, a split that does not leak, text that a seed repeats."""

from __future__ import annotations

import random
import sys
from itertools import islice
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from laminogram.evaluate.problems import SKILLS, held_out_problems, problems

ZOO = Path(__file__).resolve().parents[2] / "zoo"
sys.path.insert(0, str(ZOO))
import skills  # noqa: E402

NAMES = list(SKILLS)


def _line(text: str) -> tuple[str, str, str]:
    """Skill, key and right answer, worked out from the text of a line alone."""
    asked, _, _ = text.partition("=")
    if "+" in asked:
        a, b = sorted(map(int, asked.split("+")))
        return "addition", f"addition {a} {b}", f"{a + b}"
    name, _, rest = asked.partition(": ")
    rest = rest.strip()
    if name == "copy":
        return "copying", f"copying {rest}", f" {rest}"
    return "sorting", f"sorting {''.join(sorted(rest))}", f" {''.join(sorted(rest))}"


@pytest.mark.parametrize("name", NAMES)
def test_training_lines_are_right_and_never_held_out(name):
    held_out = {problem.key for problem in held_out_problems(name, 200)}
    lines = "".join(skills.documents(name, 3000, seed=1)).splitlines()
    assert len(lines) == 3000
    for line in lines:
        skill, key, answer = _line(line)
        assert (skill, line.partition("=")[2]) == (name, answer)
        assert key not in held_out


@pytest.mark.parametrize("name", NAMES)
def test_held_out_problems_are_different_and_a_tenth(name):
    found = held_out_problems(name, 300)
    assert len({problem.prompt for problem in found}) == 300
    assert all(problem.held_out for problem in found)
    assert held_out_problems(name, 300) == found
    make, draw = SKILLS[name], random.Random(5)
    share = sum(make(draw).held_out for _ in range(4000)) / 4000
    assert 0.07 < share < 0.13


def test_the_split_on_which_the_zoo_was_trained_stays():
    """First held-out prompts as the samples of the zoo's models show them."""
    samples = (ZOO / "small-llama" / "samples.md").read_text(encoding="utf-8")
    for name in NAMES:
        for problem in held_out_problems(name, 3, seed=1):
            assert f"**{problem.prompt}**" in samples


def test_equivalent_problems_fall_on_one_side():
    for problem in islice(problems("addition", 0, held_out=True), 50):
        a, b = problem.prompt[:-1].split("+")
        assert _line(f"{b}+{a}={problem.answer}")[1] == problem.key


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_text_and_another_gives_other_text(name):
    one, same, other = (list(skills.documents(name, 100, seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert len(one) == 13  # documents of 8 lines, the last one shorter


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_and_its_answer_are_the_tokens_of_the_line(name):
    tokenizer = Tokenizer.from_file(str(ZOO / "tokenizer.json"))
    for problem in islice(problems(name, 3), 100):
        parts = [tokenizer.encode(text).ids for text in (problem.prompt, problem.answer)]
        assert tokenizer.encode(problem.prompt + problem.answer).ids == parts[0] + parts[1]
