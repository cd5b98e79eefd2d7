"""Where tokens stand in a text, and how models with different tokenizers walk it together."""

from __future__ import annotations

from collections.abc import Sequence

RULE_SAME = "All models read the same tokens; every panel shows the same one."
RULE_ALONE = "The panel shows one token at a time."
RULE_CONTINUED = (
    "All models read the same tokens of the text, and then go on by themselves; the panels advance "
    "by token, and a shorter recording holds its last one."
)
RULE_CHARACTERS = (
    "The models cut the text differently. The panels advance over the text together: each shows "
    "its token that covers the same character, and holds it until the text has moved past it."
)
RULE_INDEX = (
    "At least one model has no token texts, so the panels advance by token index; "
    "a shorter recording holds its last token."
)
LOOK_AHEAD = 64
"""How many characters of the text may lie between two tokens whose texts are both found in it."""


def character_spans(pieces: Sequence[str], text: str) -> list[tuple[int, int]]:
    """Return for each token its (start, end) in `text`, in characters; tokens after it go on.

    A token that is not found where it should stand (a beginning-of-text mark, a piece of a
    character's bytes) gets an empty span there. What lies between two found tokens belongs to the
    last of the tokens between them, so that the spans cover the text without overlap.
    """
    spans: list[tuple[int, int]] = []
    position = 0
    for piece in pieces:
        if position >= len(text):
            end = position + (len(piece) if text else 0)
            spans.append((position, end))
            position = end
            continue
        if not text.startswith(piece, position) and text.startswith(piece.lstrip(), position):
            piece = piece.lstrip()  # some tokenizers put a space before the first word
        at = text.find(piece, position, position + LOOK_AHEAD + len(piece)) if piece else -1
        if at == position or (at > position and spans and spans[-1][0] == spans[-1][1]):
            if at > position:
                spans[-1] = (spans[-1][0], at)
            position = at + len(piece)
            spans.append((at, position))
        else:
            spans.append((position, position))
    return spans


def lockstep_frames(ends: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Return the frames of a shared walk: for each, one token index per model.

    `ends` holds, per model, the character position at which each of its tokens ends, not
    decreasing. Time moves over the sorted union of these positions; at each, a model shows its
    first token that ends there or later. Tokens that end at the same place (pieces of one
    character) each get a frame of their own, so no token of any model is skipped.
    """
    if not ends or any(len(one) == 0 for one in ends):
        return []
    frames: list[tuple[int, ...]] = []
    first = [0] * len(ends)
    for position in sorted({end for one in ends for end in one}):
        here = []
        for model, one in enumerate(ends):
            while first[model] < len(one) and one[first[model]] < position:
                first[model] += 1
            here.append(sum(1 for end in one[first[model] :] if end == position))
        for turn in range(max(here)):
            frames.append(
                tuple(
                    min(first[m] + min(turn, max(here[m] - 1, 0)), len(one) - 1)
                    for m, one in enumerate(ends)
                )
            )
    return frames


def index_frames(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Return frames that advance by token index; a shorter model holds its last token."""
    if not counts or min(counts) == 0:
        return []
    return [tuple(min(step, count - 1) for count in counts) for step in range(max(counts))]
