"""The text form of every result: what stands in it, with and without colour and block letters."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from tests.stacks import KINDS, ids_of, view_of

import laminogram
from laminogram.cli.main import cli
from laminogram.report import terminal
from laminogram.report.console import ASCII_BLOCKS, BLOCKS, number, sparkline
from laminogram.studies.attention import attention
from laminogram.studies.lens import lens
from laminogram.studies.massive import massive
from laminogram.studies.model_map import model_map
from laminogram.studies.next_token import next_token
from laminogram.studies.similarity import similarity
from laminogram.studies.study import study_models

IDS = ids_of(1, 9)[0].tolist()
STUDIES = (lens, attention, similarity, massive, model_map, next_token)


def printed(result: Any, encoding: str = "utf-8", **how: Any) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="")
    terminal.print_result(result, Console(file=file, **({"width": 500} | how)))
    file.flush()
    return raw.getvalue().decode(encoding)


def row_of(text: str, first: str) -> list[str]:
    """The cells of the first line that begins with `first`."""
    line = next(line for line in text.splitlines() if line.strip().startswith(f"{first} "))
    return re.split(r"\s{2,}", line.strip())


@pytest.fixture(scope="module")
def view() -> Any:
    return view_of("llama")


def test_sparklines_go_from_the_least_to_the_most() -> None:
    assert sparkline([0, 1, 2, 7]) == "▁▂▃█"
    assert sparkline([0, 0.5, 1], 0, 2) == "▁▃▅"
    assert sparkline([3, 3]) == "▁▁"
    assert sparkline([1, math.nan, 2, math.inf]) == "▁?█?"
    assert sparkline([math.nan]) == "?" and sparkline([]) == ""
    assert sparkline([-5, 9], 0, 1) == "▁█"
    assert len(BLOCKS) == len(ASCII_BLOCKS)


def test_numbers() -> None:
    found = [number(x) for x in (0, 1.23456, 12345.6, math.nan, -math.inf)]
    assert found == ["0", "1.235", "12,346", "-", "-inf"]


@pytest.mark.parametrize(
    ("study", "kind"),
    [
        (study, kind)
        for study in STUDIES
        for kind in KINDS
        if kind != "bert" or study is not next_token  # an encoder predicts none
    ],
)
def test_every_result_of_every_family_prints(study: Any, kind: str) -> None:
    result = study(view_of(kind).using(plan="0, 2x(1), mean(0, 2)"), IDS)
    text = printed(result)
    assert kind in text.splitlines()[0]
    assert "\x1b" not in text
    ascii_text = printed(result, encoding="ascii")
    assert not set(BLOCKS) & set(ascii_text)
    assert "\x1b[1m" in printed(result, force_terminal=True, color_system="truecolor", width=80)


def test_lens_lines(view: Any) -> None:
    result = lens(view, IDS, follow=[7])
    text = printed(result)
    cells = row_of(text, "3")
    assert cells[1] == repr(str(IDS[3]))
    assert cells[2] == sparkline(result.probability[:, 3], 0, 1)
    assert cells[-1] == f"'{result.final_ids[3]}' {result.top_probability[-1, 3, 0]:.0%}"
    rank, p = result.trajectory(7, -1)
    assert "'7' (id 7)" in text
    last = [line for line in text.splitlines() if line.strip().startswith("2 ")][-1]
    assert last.split() == ["2", str(rank[-1]), number(float(p[-1]))]


@pytest.mark.parametrize(
    ("ranks", "label"), [([1, 1, 1], "embed"), ([1, 2, 1], "1"), ([2, 1, 1], "0"), ([2, 3, 4], "1")]
)
def test_the_row_from_which_an_answer_stays(ranks: list[int], label: str) -> None:
    class Result:
        labels = ("embed", "0", "1")
        rank = np.array(ranks)[:, None]

    assert terminal._settled(Result(), 0) == label  # type: ignore[arg-type]


def test_attention_shares(view: Any) -> None:
    result = attention(view, IDS)
    cells = row_of(printed(result), "1")
    first = result.pattern[1, :, 1:, 0].mean(-1)
    assert cells[1] == f"{first.mean():.1%}" and cells[2] == sparkline(first, 0, 1)
    itself = np.diagonal(result.pattern[1], axis1=1, axis2=2).mean(-1)
    assert cells[3] == f"{itself.mean():.1%}"


def test_similarity_lines(view: Any) -> None:
    result = similarity(view, IDS)
    text = printed(result)
    cells = row_of(text, "1")
    assert cells[1] == sparkline(result.per_token[1], 0, 1)
    assert cells[2] == f"{result.per_token[1, 2]:.3f}" and cells[5] == f"{result.cka[1, 2]:.3f}"
    assert cells[6] == next(n for n, a, b in result.groups if a <= 1 <= b)
    assert row_of(text, "output")[2] == "-"
    assert result.groups_rule in text


def test_massive_lines(view: Any) -> None:
    result = massive(view, IDS)
    cells = row_of(printed(result), "2")
    assert cells[1:5] == [number(float(x)) for x in (*result.top[2], result.median[2])]
    token, channel = result.places[2, 0]
    assert cells[-1] == f"{result.token_labels[token]!r} channel {channel}"


def test_map_lines(view: Any) -> None:
    result = model_map(view, IDS)
    text = printed(result)
    total = view.card().parameter_total
    assert text.startswith(f"llama: {total:,} parameters, {4 * total:,} bytes")
    assert row_of(text, "embedding")[1] == f"{50 * 32:,}"
    turn = result.statistics["turn"]
    assert row_of(text, "0")[-1] == f"{int(result.statistics['parameters'][0]):,}"
    assert row_of(text, "turn")[1] == sparkline(turn)
    assert number(float(turn[0])) in text
    assert "not run" in printed(model_map(view.using(plan="0, 2")))


def test_next_token_lines_and_colours(view: Any) -> None:
    result = next_token(view, IDS)
    text = printed(result)
    assert row_of(text, "4")[2] == number(float(result.loss[3]))
    assert f"{result.loss.mean():.4f} nats a token over 8 tokens" in text
    assert f"{result.probability[0]:.2%}" in text
    spans = terminal.coloured(result)
    assert spans.plain == "".join(result.tokens) and len(spans.spans) == len(IDS) - 1
    styles = [str(span.style) for span in spans.spans]
    assert styles == [terminal._loss_style(loss) for loss in result.loss]
    assert "loss in nats" not in text
    assert "loss in nats" in printed(result, force_terminal=True, color_system="truecolor")


def test_long_texts_are_cut_and_say_so(view: Any) -> None:
    text = printed(next_token(view, ids_of(1, 50)))
    assert "... and 10 tokens more" in text


def test_brackets_are_no_markup() -> None:
    class Brackets:
        prefix = ()

        def token_texts(self, ids: list[int]) -> list[str]:
            return [f"[bold]{one}" for one in ids]

    from dataclasses import replace

    view = replace(view_of("llama"), tokenizer=Brackets())  # type: ignore[arg-type]
    assert f"'[bold]{IDS[0]}'" in printed(lens(view, [IDS]))


def test_what_is_no_result_is_refused() -> None:
    with pytest.raises(TypeError, match="int has no text form"):
        terminal.print_result(3)


def test_a_studys_findings() -> None:
    study = study_models(["tiny-llama"], text="The river ran down to the sea.", progress=False)
    (record,) = study.records
    text = printed(study)
    rest = record.statistics["rest"]
    cells = row_of(text, "3")
    assert cells[1:4] == [number(float(rest[k][3])) for k in ("rms", "absmax", "median_abs")]
    least, most = (number(float(end)) for end in (rest["rms"].min(), rest["rms"].max()))
    assert row_of(text, "rms") == ["rms", sparkline(rest["rms"]), least, most]
    with_it = record.statistics["all"]["absmax"]
    assert row_of(text, "max |x|, all")[1] == sparkline(with_it)
    assert record.reading is not None
    assert f"{record.reading.nats_per_token:.4f} nats a token" in text
    peak = record.peaks[0]
    first = text.splitlines()[text.splitlines().index("Largest channels:") + 4]
    assert first.split()[:3] == [record.labels[peak.row], str(peak.channel), number(peak.value)]


def test_study_text_only_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    found = run(
        cli, ["study", "tiny-rwkv4", "--text-only", "--prompt", "The sea", "--plan", "0, 0"]
    )
    assert found.exit_code == 0, found.output
    assert "0 (step 1)" in found.output and "Largest channels" in found.output
    assert list(tmp_path.iterdir()) == []
    refused = run(cli, ["study", "--text-only", "--out", "x"])
    assert refused.exit_code == 2 and "leave out --out" in refused.output
    empty = run(cli, ["study", "--text-only", "--prompt", " "])
    assert empty.exit_code == 1 and "the text is empty" in empty.output


def test_everything_public_is_found_by_type() -> None:
    view = laminogram.load("tiny-rwkv4")
    for study in STUDIES:
        assert type(study(view, "The sea was")) in terminal.PRINTERS
