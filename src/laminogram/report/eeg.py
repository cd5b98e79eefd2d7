"""`run_eeg`: models read a text, and one picture of it appears: a page, a still or a movie.

Beside `x.html` (or `.png`, `.gif`, `.mp4`) lies `x.data/` with every number and the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from laminogram.errors import ConfigError
from laminogram.report.files import data_folder, free_file, new_files, refuse_taken
from laminogram.report.manifest import manifest_json, study_manifest
from laminogram.report.page_data import Shown, study_payload
from laminogram.report.pooling import MAX_COLUMNS
from laminogram.report.study import study_page
from laminogram.report.tables import write_study_tables
from laminogram.studies.study import Study, read_text, study_models

DEFAULT_FILE = "laminogram-eeg.html"
MAX_FPS = 50.0
GIF_COLUMNS = 256
"""A GIF stores what changes from frame to frame: more columns make it large, not clearer."""


@dataclass(frozen=True)
class Look:
    """How a picture is drawn. A page takes `full` alone; it has the rest as controls."""

    full: bool = False
    """Every channel in the page, instead of at most 512 columns."""
    theme: str = "light"
    scale: str = "symlog"
    moment: int = -1
    """Of a still: which one, from 0; negative numbers count from the last."""
    fps: float = 4.0
    """Of a movie: moments (tokens) a second."""
    width: int | None = None
    """Of stills and movies, in pixels; None stands for 1280, and for 960 in a GIF."""

    def check(self) -> None:
        """Raise `ConfigError` for a rate that no movie has."""
        if not 0 < self.fps <= MAX_FPS:
            raise ConfigError(f"fps must be above 0 and at most {MAX_FPS:g}, not {self.fps:g}")


def run_eeg(
    models: Sequence[Any] | None = None,
    prompt: str | None = None,
    text_file: str | Path | None = None,
    out: str | Path | None = None,
    *,
    site: str = "ffn_out",
    new_tokens: int | None = None,
    plan: Any = None,
    kv: str | None = None,
    dtype: Any = None,
    precisions: Sequence[str] = (),
    device: Any = None,
    look: Look | None = None,
    force: bool = False,
    progress: bool = True,
) -> Path:
    """Run the models on the text, write the picture `out` and return its path.

    The models go on after the text for `new_tokens` (see `studies.study.study_models`). `out` ends
    in .html, .png, .gif or .mp4 and says what is made; it must not exist, unless `force` is given.
    Without it, the first free of `laminogram-eeg.html`, `laminogram-eeg-2.html`, ... is taken.
    What cannot be written is said before a model runs. Raises `laminogram.errors.LaminogramError`.
    """
    target = free_file(DEFAULT_FILE) if out is None else Path(out)
    look = look or Look()
    look.check()
    writer_of(target)
    refuse_taken((target, data_folder(target)), force)
    text = read_text(prompt, text_file)
    study = study_models(
        models,
        text=text,
        site=site,
        dtype=dtype,
        device=device,
        new_tokens=new_tokens,
        progress=progress,
        plan=plan,
        kv=kv,
        precisions=precisions,
    )
    return write_eeg(study, target, look, force=force)


def write_eeg(
    study: Study, out: str | Path, look: Look | None = None, *, force: bool = False
) -> Path:
    """Write the picture `out` of a study and its numbers beside it; return the picture's path.

    Both appear whole or not at all. Raises `LaminogramError` where one of them exists and `force`
    is not given, and where the file system refuses.
    """
    target, look = Path(out), look or Look()
    look.check()
    write = writer_of(target)
    beside = data_folder(target)
    with new_files((target, beside), force) as working:
        data = working / beside.name
        data.mkdir()
        files = write_study_tables(study, data)
        payload = study_payload(study, _columns(study, look))
        manifest = study_manifest(study, payload, files, data, kind="eeg", beside="")
        drawing = _Drawing(study, look, payload, files, manifest, beside.name)
        write(drawing, working / target.name)
        manifest["look"] = asdict(look)
        digest = hashlib.sha256((working / target.name).read_bytes()).hexdigest()
        manifest["files"] |= {f"../{target.name}": digest}
        (data / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")
    return target


def _columns(study: Study, look: Look) -> int:
    return max(r.values.shape[2] for r in study.records) if look.full else MAX_COLUMNS


@dataclass(frozen=True)
class _Drawing:
    """What the writers of all formats need."""

    study: Study
    look: Look
    payload: dict[str, Any]
    files: dict[str, list[str]]
    manifest: dict[str, Any]
    beside: str

    def stills(self, width: int = 1280, columns: int = 4096) -> Any:
        from laminogram.report.still import Stills

        look = self.look
        shown = Shown.of(self.study, _columns(self.study, look))
        width = look.width or width
        return Stills(shown, theme=look.theme, scale=look.scale, width=width, columns=columns)


def _write_page(drawing: _Drawing, path: Path) -> None:
    page = study_page(
        drawing.study,
        drawing.payload,
        drawing.files,
        drawing.manifest,
        data=drawing.beside,
        manifest_file=f"{drawing.beside}/manifest.json",
        kicker="EEG",
    )
    path.write_text(page, encoding="utf-8", newline="\n")


def _write_still(drawing: _Drawing, path: Path) -> None:
    drawing.stills().draw(drawing.look.moment).save(path, format="PNG", optimize=True)


def _write_gif(drawing: _Drawing, path: Path) -> None:
    from laminogram.report.movie import write_gif

    write_gif(drawing.stills(960, GIF_COLUMNS), path, drawing.look.fps)


def _write_mp4(drawing: _Drawing, path: Path) -> None:
    from laminogram.report.movie import write_mp4

    write_mp4(drawing.stills(), path, drawing.look.fps)


_WRITERS = {".html": _write_page, ".png": _write_still, ".gif": _write_gif, ".mp4": _write_mp4}


def writer_of(target: Path) -> Callable[[_Drawing, Path], None]:
    """Return what writes a file of this name; raises `ConfigError` for another ending.

    So it does for an MP4 where PyAV is not installed.
    """
    kind = target.suffix.lower()
    if kind not in _WRITERS:
        raise ConfigError(
            f"{target.name} does not say what to draw: its name must end in {', '.join(_WRITERS)}"
        )
    if kind == ".mp4":
        from laminogram.report.movie import need_av

        need_av()
    return _WRITERS[kind]
