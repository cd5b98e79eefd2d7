"""Stills and movies: the page's colours and scale, every moment, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laminogram.errors import ConfigError, LaminogramError
from laminogram.report import files as file_rules
from laminogram.report.colour import heat_table, inks, palette, table_index
from laminogram.report.eeg import Look, run_eeg, write_eeg
from laminogram.report.lettering import drawable
from laminogram.report.movie import Quantiser, gif_colours
from laminogram.report.page_data import Shown
from laminogram.report.payload import decode_array
from laminogram.report.pooling import QUANTILES, quantile_bands
from laminogram.report.scale import place, ticks
from laminogram.report.still import Stills, reduced
from laminogram.studies.study import Study

TEXT = "One word after another, and so on to the end."


@pytest.fixture(scope="module")
def study(synthetic) -> Study:
    return synthetic.fake_study(TEXT)


@pytest.fixture(scope="module")
def shown(study) -> Shown:
    return Shown.of(study)


def hexed(pixel) -> str:
    return "#" + bytes(int(value) for value in pixel[:3]).hex()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("scale", ["symlog", "linear"])
def test_every_cell_of_the_heat_map_has_the_colour_of_its_value(shown, theme, scale):
    """The colour by hand: the file's own table, and the scale's formula written out again."""
    stills = Stills(shown, theme=theme, scale=scale)
    moment = 5
    picture = np.asarray(stills.draw(moment))
    colours = bytes.fromhex(palette()["tables"][f"diverging-{theme}"])
    settings = shown.scale[scale]
    for panel, token in enumerate(shown.frames[moment]):
        left, top, right, bottom = stills.heat_box(panel)
        values = shown.pooled[panel].values[:, token].astype(np.float64)
        rows, columns = values.shape
        wrong = 0
        for row in range(rows):
            y = top + round((row + 0.15) * (bottom - top) / rows)  # beside the marks' outlines
            for column in range(columns):
                x = left + int((column + 0.5) * (right - left) / columns)
                size = abs(values[row, column])
                if scale == "linear":
                    part = min(1.0, size / settings["limit"])
                else:
                    low = settings["threshold"]
                    part = np.log(1 + size / low) / np.log(1 + settings["limit"] / low)
                index = int(np.floor((np.sign(values[row, column]) * part + 1) * 127.5 + 0.5))
                expected = np.frombuffer(colours[3 * index : 3 * index + 3], np.uint8)
                wrong += int(np.abs(picture[y, x].astype(int) - expected).max() > 1)
        # Outlines of three marks, and the triangles of what is clipped, lie over a few cells.
        clipped = int((np.abs(values) > settings["limit"]).sum())
        assert wrong <= 30 + 4 * clipped
        assert wrong < 0.06 * rows * columns


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_grounds_lines_and_legend_are_of_the_theme(shown, theme):
    stills = Stills(shown, theme=theme)
    picture = stills.draw(0)
    assert picture.mode == "RGB"
    assert hexed(picture.getpixel((2, 2))) == inks(theme)["paper"]
    pixels = np.asarray(picture)
    trace = np.frombuffer(bytes.fromhex(inks(theme)["trace"][1:]), np.uint8)
    assert (np.abs(pixels.astype(int) - trace).max(axis=2) < 8).sum() > 200
    middle = heat_table(theme)[[0, 255]]
    for colour in middle:  # both ends of the legend's ramp
        assert (pixels == colour).all(axis=2).sum() >= 8


def test_the_inks_are_those_of_the_page():
    assert inks("light")["paper"] == "#fbfaf7"
    assert inks("dark")["paper"] == "#101417"
    assert set(inks("light")) == set(inks("dark"))


def test_places_agree_with_the_formula_and_keep_their_ends():
    scale = {"symlog": {"limit": 100.0, "threshold": 2.0}, "linear": {"limit": 10.0}}
    x = np.array([-500.0, -100.0, -2.0, 0.0, 3.0, 100.0, np.nan])
    ends = np.log1p(np.array([1.0, 1.5])) / np.log1p(50)
    found = place(x, "symlog", scale)
    assert np.allclose(found[:-1], [-1, -1, -ends[0], 0, ends[1], 1], atol=1e-15)
    assert np.isnan(found[-1])
    assert place(np.array([-20.0, 5.0]), "linear", scale).tolist() == [-1.0, 0.5]
    assert table_index(np.array([-1.0, 1.0, np.nan])).tolist() == [0, 255, 256]
    assert set(ticks("symlog", scale)) == {-100.0, 0.0, 100.0, 10.0, -10.0}
    assert set(ticks("linear", scale)) == {-10.0, -5.0, 0.0, 5.0, 10.0}


def test_a_moment_that_is_not_there_is_named_and_minus_one_is_the_last(shown):
    stills = Stills(shown, width=640)
    with pytest.raises(ConfigError, match=f"0 to {len(stills) - 1}"):
        stills.draw(len(stills))
    assert stills.draw(-1).tobytes() == stills.draw(len(stills) - 1).tobytes()
    assert stills.draw(1).tobytes() != stills.draw(2).tobytes()


@pytest.mark.parametrize(("options", "said"), [
    ({"theme": "sepia"}, "light and dark"), ({"scale": "cubic"}, "symlog"), ({"width": 90}, "480"),
])  # fmt: skip
def test_what_no_picture_has_is_refused(shown, options, said):
    with pytest.raises(ConfigError, match=said):
        Stills(shown, **options)


def test_narrow_pictures_keep_the_value_largest_in_size():
    values = np.array([[1.0, -5.0, 2.0, 2.0, 3.0, -0.5, 0.0]])
    assert reduced(values, 3).tolist() == [[-5.0, 2.0, 3.0]]
    assert reduced(values, 7) is values


def test_bands_are_quantiles_over_tokens_and_leave_out_what_is_not_finite():
    values = np.random.default_rng(0).standard_normal((3, 40, 5)).astype(np.float32)
    values[1, 7, 2], values[2, :, 4] = np.inf, np.nan
    bands = quantile_bands(values)
    assert bands.shape == (len(QUANTILES), 3, 5)
    for index, q in enumerate(QUANTILES):
        assert np.allclose(bands[index, 0], np.quantile(values[0], q, axis=0), atol=1e-6)
        known = np.delete(values[1, :, 2], 7)
        assert np.isclose(bands[index, 1, 2], np.quantile(known, q), atol=1e-6)
    assert (bands[:, 2, 4] == 0).all()


def test_broken_values_are_violet_and_wide_deep_models_fit(synthetic):
    record = synthetic.fake_record("wide", "llama", "one two", layers=32, channels=1500)
    values = record.values.copy()
    values[3, 1, :3] = np.nan
    study = Study.of([replace(record, values=values)], "one two")
    stills = Stills(Shown.of(study), width=900)
    left, top, _, _ = stills.heat_box(0)
    picture = stills.draw(1)
    assert picture.size == (900, stills.height)
    assert picture.getpixel((left, top + 3 * 6 + 3)) == (208, 79, 154)


def test_characters_that_the_font_lacks_are_written_as_codes():
    assert drawable("a ±\n") == "a ±\\n"
    assert drawable("é") == "\\xe9"
    assert drawable("層") == "\\u5c64"
    assert drawable("\u202e\ud800") == "\\u202e\\ud800"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_gif_has_every_moment_in_one_palette_close_to_the_colours(study, shown, theme, tmp_path):
    path = write_eeg(study, tmp_path / "x.gif", Look(theme=theme, fps=8, width=640))
    stills = Stills(shown, theme=theme, width=640)
    with Image.open(path) as gif:
        assert gif.format == "GIF"
        assert gif.n_frames == len(study.frames)
        assert gif.info["duration"] == 120  # hundredths of a second: 12.5 becomes 12
        assert gif.info["loop"] == 0
        for moment in (0, 3, 7):
            gif.seek(moment)
            drawn = np.asarray(gif.convert("RGB")).astype(int)
            box = stills.heat_box(0)
            true = np.asarray(stills.draw(moment)).astype(int)
            heat = np.abs(drawn - true)[box[1] : box[3], box[0] : box[2]]
            assert np.quantile(heat, 0.99) <= 6
            assert np.abs(drawn - true).mean() < 0.7
            assert tuple(drawn[2, 2]) == tuple(true[2, 2])


def test_a_pixel_becomes_the_nearest_colour(shown):
    colours = gif_colours(Stills(shown, theme="dark"))
    assert 100 < len(colours) <= 256
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    found = np.asarray(Quantiser(colours)(Image.fromarray(pixels)).convert("RGB")).astype(int)
    far = ((pixels[:, :, None].astype(int) - colours.astype(int)) ** 2).sum(-1)
    assert (((found - pixels) ** 2).sum(-1) == far.min(-1)).all()


def test_the_numbers_and_the_command_lie_beside_the_picture(study, tmp_path):
    path = write_eeg(study, tmp_path / "x.png", Look(moment=2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.data", "x.png"]
    manifest = json.loads((tmp_path / "x.data" / "manifest.json").read_text())
    assert manifest["kind"] == "laminogram eeg"
    assert manifest["look"]["moment"] == 2
    assert manifest["command"]
    for name, digest in manifest["files"].items():
        found = (tmp_path / "x.data" / name).read_bytes()
        assert hashlib.sha256(found).hexdigest() == digest, name
    with np.load(tmp_path / "x.data" / "eeg-tiny-llama.npz") as arrays:
        record = study.records[0]
        assert np.array_equal(arrays["ffn_out"].reshape(record.values.shape), record.values)
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(Stills(Shown.of(study)).draw(2)))


def test_what_exists_is_replaced_only_by_force_and_a_strange_folder_never(study, tmp_path):
    target = tmp_path / "x.png"
    target.write_text("mine")
    with pytest.raises(LaminogramError, match="--force"):
        write_eeg(study, target)
    assert target.read_text() == "mine"
    write_eeg(study, target, force=True)
    write_eeg(study, target, Look(moment=0), force=True)
    assert (tmp_path / "x.data" / "manifest.json").is_file()
    strange = tmp_path / "y.data"
    strange.mkdir()
    (strange / "thesis.txt").write_text("mine")
    with pytest.raises(LaminogramError, match="no run of laminogram wrote"):
        write_eeg(study, tmp_path / "y.png", force=True)
    assert (strange / "thesis.txt").read_text() == "mine"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_full_disk_leaves_nothing_and_keeps_what_was_there(study, tmp_path, monkeypatch):
    target = tmp_path / "x.png"
    write_eeg(study, target, Look(moment=0))
    before = target.read_bytes(), sorted(p.name for p in (tmp_path / "x.data").iterdir())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(LaminogramError, match="No space left"):
        write_eeg(study, target, Look(moment=1), force=True)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "rename", fail_second(Path.rename))
    with pytest.raises(LaminogramError, match="No space left"):
        write_eeg(study, target, Look(moment=1), force=True)
    monkeypatch.undo()
    after = target.read_bytes(), sorted(p.name for p in (tmp_path / "x.data").iterdir())
    assert after == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.data", "x.png"]


def fail_second(real):
    """A rename that fails the fourth time: the second new file, after the first is in place."""
    calls = []

    def rename(self, target):
        calls.append(self)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return real(self, target)

    return rename


def test_the_default_name_is_the_first_free_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert file_rules.free_file("a.html") == Path("a.html")
    (tmp_path / "a.data").mkdir()
    assert file_rules.free_file("a.html") == Path("a-2.html")


def test_bad_names_rates_and_a_missing_extra_are_said_before_a_model_runs(tmp_path, monkeypatch):
    for name, said in (("x.jpg", ".html, .png, .gif, .mp4"), ("x", "x does not say")):
        with pytest.raises(ConfigError, match=said):
            run_eeg(["nowhere"], "a", out=tmp_path / name)
    with pytest.raises(ConfigError, match="fps"):
        run_eeg(["nowhere"], "a", out=tmp_path / "x.gif", look=Look(fps=0))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"laminogram\[movie\]"):
        run_eeg(["nowhere"], "a", out=tmp_path / "x.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_mp4_has_every_moment(study, tmp_path):
    av = pytest.importorskip("av")
    path = write_eeg(study, tmp_path / "x.mp4", Look(fps=10, width=640, theme="dark"))
    stills = Stills(Shown.of(study), theme="dark", width=640)
    with av.open(str(path)) as movie:
        frames = [frame.to_ndarray(format="rgb24") for frame in movie.decode(video=0)]
    assert len(frames) == len(study.frames)
    assert np.abs(frames[4].astype(int) - np.asarray(stills.draw(4))).mean() < 6


def test_the_page_holds_the_bands(study):
    from laminogram.report.page_data import study_payload

    packed = study_payload(study)["models"][1]
    bands = decode_array(packed["bands"])
    assert np.allclose(bands, quantile_bands(study.records[1].values), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("x.html", "pathlib.Path.write_text"),
        ("x.png", "PIL.Image.Image.save"),
        ("x.gif", "PIL.Image.Image.save"),
        ("x.html", "numpy.savez_compressed"),
        ("x.html", "pyarrow.parquet.write_table"),
    ],
)
def test_a_full_disk_is_said_and_leaves_nothing(synthetic, tmp_path, monkeypatch, name, call):
    import errno

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    study = Study.of([synthetic.fake_record("a", "llama", "a b", layers=2, channels=8)], "a b")
    monkeypatch.setattr(call, full)
    with pytest.raises(LaminogramError, match="No space left on device"):
        write_eeg(study, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
