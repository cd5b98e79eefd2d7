"""Documents for studies: those of a file, or the sixteen short ones that come with the package.

Intervals resample documents, so a study wants several. They are cut by letters, not by tokens, so
that models with different tokenizers read the same text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from laminogram.errors import ConfigError
from laminogram.evaluate.documents import SUFFIXES, read_texts
from laminogram.probe.subject import Subject

LETTERS = 1000
"""Letters of a document that are read, by default."""
PASSAGE = 200
"""Letters that a passage of a plain text has at least, so that one line is no document."""

BUNDLED = (
    "The river came down from the hills in spring, brown with the earth of three valleys. By the "
    "time it reached the town it had slowed, and the children threw sticks from the bridge to see "
    "whose would come out first on the other side.",
    "To make the bread, mix the flour with the water and leave it alone for an hour. Then add the "
    "salt, fold the dough over itself four times, and let it rise until it is twice as large. It "
    "goes into a hot oven and comes out when it sounds hollow.",
    "The meeting began at nine. The first item was the roof, which leaked; the second was the "
    "money for the roof, of which there was none. Someone proposed a concert. It was agreed that a "
    "concert would be held, and that it would be held indoors.",
    "A pump moves water by lowering the pressure at one end of a pipe. The air outside pushes the "
    "water up, and can push it no higher than ten metres. A deeper well therefore needs a pump at "
    "the bottom, which pushes instead of pulling.",
    "She had kept the letters in a tin box under the stairs. There were forty of them, all from "
    "the same man, and she had answered every one. When her grandson asked who he was, she said "
    "that he had been a very good speller.",
    "In the north of the country the winters are long and the summers are bright. Farmers sow "
    "barley in May and cut it in September. In the south they grow wheat and apples, and in the "
    "villages along the coast most people still fish.",
    "The function takes a list of numbers and returns their sum. If the list is empty it returns "
    "zero. It does not change the list. When a number is missing it raises an error that names the "
    "place, so that the caller can tell what went wrong.",
    "The old clock in the hall was wrong by seven minutes, and everybody in the house knew it. "
    "Guests arrived early and did not know why. When it was mended at last, the family was late "
    "for everything, all through the month of March.",
    "Bees see the sky differently from us. The light from the sun is scattered by the air, and "
    "its waves line up in a pattern that a bee can read. Even when clouds hide the sun, a patch of "
    "blue is enough to tell her the way home.",
    "“You were supposed to bring the map,” said Anna. “I brought the map,” said Paul. “You were "
    "supposed to bring the map of this island.” He turned it over, as if the right one might be "
    "printed on the back. It was not.",
    "The tax was raised in the second year of the war and again in the fourth. Bread became dear, "
    "and there were riots in two ports. The council bought grain abroad, sold it at a loss, and "
    "was in debt to three banks before the peace was signed.",
    "First you learn where the notes are; then you learn to read them; after that you must forget "
    "that you are reading. My teacher used to put a sheet of paper over my hands so that I could "
    "not look at them. I hated it, and she was right.",
    "The train for the capital leaves from platform four at ten past six. It stops at every "
    "station as far as the lake, and then at none. Passengers for the mountain line change at the "
    "junction, where the two trains wait for each other.",
    "When iron is heated it glows, first a dull red, then orange, then nearly white. A smith reads "
    "the colour as others read a dial. Too cold and the metal cracks under the hammer; too hot and "
    "it burns, throwing off sparks like a wet log.",
    "There was once a fox who wanted to be a judge. He asked the crow, who said that a judge must "
    "be fair. He asked the owl, who said that a judge must be wise. He asked the goose, and she "
    "said nothing, for she had seen his teeth.",
    "The experiment was repeated ten times with the lamp on and ten times with the lamp off. The "
    "order was drawn by lot. The seedlings under the lamp were taller by a third, but four of them "
    "fell over, and those were measured lying down.",
)


def read_documents(path: Path | None) -> list[str]:
    """The documents of a file, the bundled ones without a file.

    Of JSON lines and Parquet each row's `text`; of plain text its passages, which blank lines part
    and which are joined until they have `PASSAGE` letters. ConfigError and TokenError as in
    `evaluate.documents.read_texts`.
    """
    if path is None:
        return list(BUNDLED)
    texts = read_texts(path)
    return texts if path.suffix in SUFFIXES else passages(texts[0])


def passages(text: str) -> list[str]:
    """A plain text in passages; what is left at the end and too short joins the last one."""
    found: list[str] = []
    for part in re.split(r"\n\s*\n", text.strip()):
        if found and len(found[-1]) < PASSAGE:
            found[-1] += f"\n\n{part}"
        else:
            found.append(part)
    if len(found) > 1 and len(found[-1]) < PASSAGE:
        last = found.pop()
        found[-1] += f"\n\n{last}"
    return found


def shortened(text: str, letters: int = LETTERS) -> str:
    """The beginning of a text, cut at a blank where there is one, at most so many letters long."""
    if len(text) <= letters:
        return text
    head, blank, _ = text[: letters + 1].rpartition(" ")
    return head if blank and head.strip() else text[:letters]


def rows_of(view: Subject, texts: Sequence[str], bos: bool | None = None) -> list[list[int]]:
    """The token ids of each text; `bos` overrides the tokenizer's habit.

    ConfigError for a text beyond the context of a model that cannot read on past it.
    """
    tokenizer = view.needed_tokenizer()
    rows = [tokenizer.encode(text, bos) for text in texts]
    context, longest = view.config.longest_text, max(map(len, rows))
    if context is not None and longest > context:
        raise ConfigError(
            f"a document is {longest} tokens for {view.name}, which was made for {context}; read "
            "fewer letters of each"
        )
    return rows
