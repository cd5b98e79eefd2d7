"""The sentences of a study's page: what was measured, how, and what to beware of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from laminogram.report.html import prompt_html, text_html
from laminogram.report.page_data import FRAME_TOKENS, nonfinite_count
from laminogram.report.payload import EXACT_VALUES
from laminogram.report.pooling import MAX_COLUMNS
from laminogram.studies.study import Study

SITE_WORDS = {
    "ffn_out": (
        "the channel mixer’s response (<code>ffn_out</code>: what it adds to the residual stream)"
    ),
    "attn_out": (
        "the token mixer’s response (<code>attn_out</code>: what it adds to the residual stream)"
    ),
}
_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def joined(names: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def study_slots(
    study: Study, payload: Mapping[str, Any], files: Mapping[str, list[str]], version: str
) -> dict[str, str]:
    """Return the HTML of every slot of the template but style, script, policy and payload.

    `files` names the tables of each picture as they are reached from the page.
    """
    names = [record.name for record in study.records]
    return {
        "version": text_html(version),
        "title": text_html(f"{joined(names)}, layer by layer"),
        "heading": _heading(names),
        "lead": _lead(study),
        "prompt": prompt_html(study.text, "they"),
        "about_eeg": (
            "Each line is a layer, the first at the top; along it stand its channels. Play the "
            "text, and every token sets them swinging. Behind a line lies where each channel is "
            "over the text: strong for the middle half of its tokens, weaker for 90 per cent, "
            "weakest for all. The largest values of the moment are named "
            "<i>layer·channel value</i>. Space plays, arrows step; a click pins a "
            "channel, shift and arrows move the pin."
        )
        + _about_repeats(study),
        "note_eeg": _note_eeg(study, payload, files),
        "about_statistics": (
            "The same responses as numbers. Massive activations sit on the first token and can be "
            "all of a layer’s variance by themselves, so every number is given without that token "
            "(solid) and with it (dashed)."
        ),
        "note_statistics": _note_statistics(study, files),
        "about_peaks": (
            "The (layer, channel) pairs whose value is largest in size at any token, "
            "the first token included, before any pooling."
        ),
        "note_peaks": _links("Numbers", files.get("peaks", [])),
        "note_reading": _note_reading(study, files),
    }


def _heading(names: Sequence[str]) -> str:
    # A line must not break inside a model's name.
    kept = [f'<span class="nb">{text_html(name)}</span>' for name in names]
    return f'{joined(kept)}, <span class="nb">layer by layer</span>'


def _lead(study: Study) -> str:
    site = SITE_WORDS.get(study.site, f"<code>{text_html(study.site)}</code>")
    count = len(study.records)
    many = _SMALL[count] if count < len(_SMALL) else str(count)
    lengths = sorted({len(record.token_ids) for record in study.records})
    tokens = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
    models = (
        "One language model reads" if count == 1 else f"{many.capitalize()} language models read"
    )
    return (
        f"{models} the same text, {tokens} tokens. This page shows {site} at every layer, "
        "every channel and every token."
    )


def _about_repeats(study: Study) -> str:
    repeated = any("step" in label for record in study.records for label in record.labels)
    return " A layer that runs more than once is named <i>layer@step</i>." if repeated else ""


def _links(word: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    links = ", ".join(
        f'<a href="{text_html(quote(name))}">{text_html(name.rpartition("/")[2])}</a>'
        for name in names
    )
    return f"{word}: {links}."


def _note_eeg(study: Study, payload: Mapping[str, Any], files: Mapping[str, list[str]]) -> str:
    symlog, linear = payload["scale"]["symlog"], payload["scale"]["linear"]
    said = [
        text_html(study.rule),
        "Values are the true tensors, not normalised. One scale holds for all models and all "
        f"moments: symlog is sign(x)·log(1+|x|/{symlog['threshold']:g}) over its value at the "
        f"limit {symlog['limit']:g}, where {symlog['threshold']:g} is the 90th percentile of |x| "
        f"and the limit the largest |x|, both rounded up; linear ends at {linear['limit']:g}, the "
        "99.9th percentile of |x| rounded up, and what lies beyond carries ▲ or ▼.",
    ]
    wide = [m["name"] for m in payload["models"] if m["width"] > 1]
    if wide:
        said.append(
            f"{text_html(joined(wide))}: channels are pooled to at most {MAX_COLUMNS} columns; a "
            "column shows the value largest in size of its block, with its sign and true channel."
        )
    said += _about_channels(study)
    if payload["exact"]:
        said.append("Values under the pointer are exact (float32).")
    else:
        said.append(
            f"With more than {EXACT_VALUES:,} values the page keeps float16: 11 significant bits."
        )
    if any(len(record.token_ids) > FRAME_TOKENS for record in study.records):
        said.append(f"The first {FRAME_TOKENS} tokens are animated; the tables hold all.")
    if any(record.prompt_length < len(record.token_ids) for record in study.records):
        said.append("Tokens in colour were generated by the model itself: models differ in them.")
    said.append(_links("Numbers", files.get("eeg", [])))
    return " ".join(said)


def _about_channels(study: Study) -> list[str]:
    """How channels were made where the site has more axes than one, and who read whose tokens."""
    said = []
    for record in study.records:
        if record.channel_axes:
            shape = " × ".join(f"{size} {axis}" for axis, size in record.channel_axes)
            step = record.channel_axes[-1][1]
            said.append(
                f"{text_html(record.name)}: a token’s values ({text_html(shape)}) are laid side by "
                f"side, the last axis running fastest: channel {step} begins the second "
                f"{text_html(record.channel_axes[-2][0])}."
            )
        leader = record.manifest.get("tokens_of")
        if leader:
            said.append(f"{text_html(record.name)} reads the tokens of {text_html(leader)}.")
    return said


def _note_statistics(study: Study, files: Mapping[str, list[str]]) -> str:
    said = [
        "Computed in float64 over a layer’s real tokens and all its channels, before any pooling. "
        "Under each chart stands its formula; under the pointer, the value without the first token "
        "and, in brackets, with it. σ is the standard deviation of the layer’s own values. The "
        "participation ratio is how many channels would share the energy if they shared it evenly.",
        _bos(study),
    ]
    for record in study.records:
        bad = nonfinite_count(record)
        if bad:
            said.append(
                f"<b>{text_html(record.name)}: {bad:,} recorded values are not finite; they are "
                "drawn in violet and left out of the statistics.</b>"
            )
    said.append(_links("Numbers", files.get("statistics", [])))
    return " ".join(said)


def _bos(study: Study) -> str:
    with_mark = [r.name for r in study.records if r.starts_with_bos]
    without = [r.name for r in study.records if not r.starts_with_bos]
    said = []
    if with_mark:
        said.append(f"{joined(with_mark)}: the first token is the beginning-of-text mark.")
    if without:
        said.append(f"{joined(without)}: no beginning-of-text mark; the first token is text.")
    return text_html(" ".join(said))


def _note_reading(study: Study, files: Mapping[str, list[str]]) -> str:
    said = [
        "Loss is −log p of each token of the text after the first. Bits a byte divide the sum by "
        "the UTF-8 bytes those tokens cover, so models with different tokenizers can be compared "
        "by it; perplexity is per token and cannot. One short text says little, so there is no "
        "interval."
    ]
    without = [record.name for record in study.records if record.reading is None]
    if without:
        said.append(
            f"{text_html(joined(without))}: no next-token loss (it reads both directions, or the "
            "text is one token)."
        )
    said.append(_links("Numbers", files.get("tokens", [])))
    return " ".join(said)
