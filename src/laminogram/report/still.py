"""One moment of the EEG as a picture: numpy and Pillow, in the page's colours and on its scale.

From the top: the moment's token and its text, then for each model its traces (a line a layer) and
its heat map (layers x channels), then the legend. Lengths are in pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from laminogram.errors import ConfigError
from laminogram.report.colour import heat_table, inks, table_index
from laminogram.report.lettering import drawable, fitted, font, number
from laminogram.report.page_data import Shown
from laminogram.report.pooling import quantile_bands
from laminogram.report.scale import place, ticks
from laminogram.report.still_panel import EDGE, GUTTER, NAME, STRIP, Floats, Panel, reduced
from laminogram.studies.recording import ModelRecord

MARGIN, GAP = 24, 36
HEAD, LEGEND = 34, 58
NAMED = 3
"""So many of a moment's largest values are named, at most two of one layer."""
_FINE = 2  # lines are drawn so many times larger and scaled down, which smooths them

Box = tuple[float, float, float, float]


class Stills:
    """Draws the moments of a study, each a picture of one size; what stays is drawn once."""

    def __init__(
        self,
        shown: Shown,
        *,
        theme: str = "light",
        scale: str = "symlog",
        width: int = 1280,
        columns: int = 4096,
    ) -> None:
        """Lay the picture out. `scale` is `symlog` or `linear`; raises `ConfigError`.

        A model is drawn in at most `columns` columns, and in no more than there are pixels.
        """
        if theme not in ("light", "dark"):
            raise ConfigError(f"there is no theme {theme!r}; there are light and dark")
        if scale not in shown.scale:
            raise ConfigError(f"there is no scale {scale!r}; there are {', '.join(shown.scale)}")
        if width < 480:
            raise ConfigError(f"a picture is at least 480 pixels wide, not {width}")
        self.shown, self.kind, self.width = shown, scale, width - width % 2
        self.most = columns
        self.ink, self.table = inks(theme), heat_table(theme)
        self.panels = self._panels()
        height = max(panel.bottom for panel in self.panels) + LEGEND + MARGIN // 2
        self.height = height + height % 2
        self.ground = self._ground()

    def __len__(self) -> int:
        return len(self.shown.frames)

    def draw(self, moment: int) -> Image.Image:
        """Return the picture of one moment, RGB; negative numbers count from the last."""
        count = len(self)
        if not -count <= moment < count:
            raise ConfigError(f"there is no token {moment} to draw; there are 0 to {count - 1}")
        moment %= count
        frame = self.shown.frames[moment]
        lines = self.ground.copy()
        pen = ImageDraw.Draw(lines)
        for panel, token in zip(self.panels, frame, strict=True):
            self._traces(pen, panel, token)
        picture = lines.reduce(_FINE)
        draw = ImageDraw.Draw(picture)
        self._head(draw, moment)
        for panel, token in zip(self.panels, frame, strict=True):
            self._heat(picture, panel, token)
            self._words(draw, panel, token)
            self._marks(draw, panel, token)
        self._legend(picture, draw)
        return picture

    def heat_box(self, panel: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of a model's heat map in every picture."""
        one = self.panels[panel]
        left = one.left + GUTTER
        return left, one.heat_top, left + one.wide, one.heat_top + one.rows * one.heat_row

    # Layout

    def _panels(self) -> list[Panel]:
        records = self.shown.study.records
        across = min(2, len(records))
        room = (self.width - 2 * MARGIN - (across - 1) * GAP) // across
        most = max(pooled.values.shape[0] for pooled in self.shown.pooled)
        own = not self.shown.study.same_tokens
        top = MARGIN // 2 + HEAD + (0 if own else STRIP)
        panels: list[Panel] = []
        for index, (record, pooled) in enumerate(zip(records, self.shown.pooled, strict=True)):
            if index and index % across == 0:
                top = max(panel.bottom for panel in panels) + GAP // 2
            panels.append(
                Panel(
                    record,
                    pooled,
                    MARGIN + index % across * (room + GAP),
                    top,
                    room - GUTTER - EDGE,
                    float(np.clip(400 / most, 11, 46)),
                    int(np.clip(220 / most, 6, 20)),
                    own,
                )
            )
        return panels

    def _ground(self) -> Image.Image:
        """Bands and zero lines, `_FINE` times larger."""
        size = (self.width * _FINE, self.height * _FINE)
        picture = Image.new("RGB", size, self.ink["paper"])
        draw = ImageDraw.Draw(picture)
        shades = [_mixed(self.ink["paper"], self.ink["band"], 0.45)]
        shades += [self.ink["band"], self.ink["middle"]]
        for panel in self.panels:
            bands = quantile_bands(panel.pooled.values)
            for row in range(panel.rows):
                for index, shade in enumerate(shades):
                    low = reduced(bands[index, row : row + 1], self._room(panel))
                    high = reduced(bands[-1 - index, row : row + 1], self._room(panel))
                    upper = self._line(panel, row, self._place(high)[0])
                    lower = self._line(panel, row, self._place(low)[0])
                    draw.polygon(np.concatenate([upper, lower[::-1]]).ravel().tolist(), fill=shade)
            for row in range(panel.rows):
                y = panel.base(row) * _FINE
                ends = [(panel.left + GUTTER) * _FINE, y]
                ends += [(panel.left + GUTTER + panel.wide) * _FINE, y]
                draw.line(ends, fill=self.ink["line"], width=_FINE)
        return picture

    def _room(self, panel: Panel) -> int:
        return min(self.most, panel.wide)

    def _place(self, values: Floats) -> Floats:
        return place(values, self.kind, self.shown.scale)

    def _line(self, panel: Panel, row: int, places: Floats) -> Floats:
        x = panel.x(np.arange(places.size), places.size)  # type: ignore[arg-type]
        return np.stack([x, panel.base(row) - panel.swing * places], axis=1) * _FINE

    # A moment

    def _traces(self, draw: ImageDraw.ImageDraw, panel: Panel, token: int) -> None:
        places = self._place(reduced(panel.pooled.values[:, token], self._room(panel)))
        for row in range(panel.rows):
            line = self._line(panel, row, places[row])
            for run in _runs(~np.isnan(places[row])):
                if run.stop - run.start > 1:
                    points = line[run].ravel().tolist()
                    draw.line(points, fill=self.ink["trace"], width=_FINE)

    def _heat(self, picture: Image.Image, panel: Panel, token: int) -> None:
        places = self._place(reduced(panel.pooled.values[:, token], self._room(panel)))
        cells = self.table[table_index(places)]
        column = ((np.arange(panel.wide) + 0.5) * places.shape[1] / panel.wide).astype(np.intp)
        pixels = cells[:, column].repeat(panel.heat_row, axis=0)
        image = Image.fromarray(np.ascontiguousarray(pixels))
        picture.paste(image, (panel.left + GUTTER, panel.heat_top))

    def _head(self, draw: ImageDraw.ImageDraw, moment: int) -> None:
        study, y = self.shown.study, MARGIN // 2 + HEAD // 2
        names = " and ".join(record.name for record in study.records)
        title = f"{names} · {study.site}"
        x = float(MARGIN)
        at = f"{moment + 1} / {len(self)}"
        right = self.width - MARGIN
        draw.text((right, y), at, self.ink["soft"], font(14), anchor="rm")
        room = right - draw.textlength(at, font(14)) - 16 - x
        draw.text((x, y), fitted(title, 18, room), self.ink["ink"], font(18), anchor="lm")
        if study.same_tokens:
            token = self.shown.frames[moment][0]
            top = MARGIN // 2 + HEAD
            self._strip(draw, study.records[0], token, x, top, self.width - 2 * MARGIN)

    def _strip(
        self,
        draw: ImageDraw.ImageDraw,
        record: ModelRecord,
        token: int,
        left: float,
        top: float,
        room: float,
    ) -> None:
        """The text around the moment on one line, its token marked."""
        face = font(15)
        texts = [_piece(record, index) for index in range(len(record.token_ids))]
        wide = [draw.textlength(text, face) for text in texts]
        first, used = token, wide[token]
        while first > 0 and used + wide[first - 1] < room * 0.6:
            first -= 1
            used += wide[first]
        x, y = left, top + STRIP / 2
        for index in range(first, len(texts)):
            if x + wide[index] > left + room:
                break
            made = index >= record.prompt_length
            colour = self.ink["focus"] if made else self.ink["ink" if index <= token else "soft"]
            if index == token:
                draw.rounded_rectangle((x - 1, y - 11, x + wide[index] + 1, y + 11), 3, colour)
                colour = self.ink["paper"]
            draw.text((x, y), texts[index], colour, face, anchor="lm")
            x += wide[index]

    def _words(self, draw: ImageDraw.ImageDraw, panel: Panel, token: int) -> None:
        """The model's name, the token, the names of layers and channels."""
        small, soft = font(12), self.ink["soft"]
        y = panel.top + NAME / 2
        said = f"token {token} “{_piece(panel.record, token)}”"
        x = float(panel.left)
        if len(self.panels) > 1:  # the only one is named by the title
            name = drawable(panel.record.name)
            draw.text((x, y), name, self.ink["ink"], font(15), anchor="lm")
            x += draw.textlength(name, font(15)) + 12
        room = panel.left + GUTTER + panel.wide - x
        draw.text((x, y), fitted(said, 14, room), soft, font(14), anchor="lm")
        if panel.own_strip:
            top, left = panel.top + NAME, panel.left
            self._strip(draw, panel.record, token, left, top, GUTTER + panel.wide)
        right = panel.left + GUTTER - 8
        sparse = int(np.ceil(13 / panel.row_height)), int(np.ceil(13 / panel.heat_row))
        for row, label in enumerate(panel.labels):
            if row % sparse[0] == 0:
                draw.text((right, panel.base(row)), label, soft, small, anchor="rm")
            if row % sparse[1] == 0:
                middle = panel.heat_top + (row + 0.5) * panel.heat_row
                draw.text((right, middle), label, soft, small, anchor="rm")
        draw.text((right, panel.trace_top + 4), "layer", soft, small, anchor="rm")
        channels = panel.record.values.shape[2]
        bottom = panel.heat_top + panel.rows * panel.heat_row
        steps = (16 << power for power in range(20))
        step = next(one for one in steps if channels / one <= panel.wide / 56)
        for channel in range(0, channels, step):
            at = panel.x(channel / panel.pooled.width, panel.columns)
            draw.line((at, bottom + 2, at, bottom + 5), soft)
            draw.text((at, bottom + 13), str(channel), soft, small, anchor="mm")

    def _marks(self, draw: ImageDraw.ImageDraw, panel: Panel, token: int) -> None:
        """What lies beyond the scale, and the largest values by name."""
        values = panel.pooled.values[:, token]
        places = self._place(values)
        with np.errstate(invalid="ignore"):
            beyond = np.argwhere(np.abs(values) > self.shown.scale[self.kind]["limit"])
        for row, column in beyond:
            sign = 1.0 if values[row, column] > 0 else -1.0
            x = panel.x(float(column), panel.columns)
            for y, size, colour in (
                (panel.base(int(row)) - sign * panel.swing, 4.0, self.ink["accent"]),
                (panel.heat_top + (row + 0.5) * panel.heat_row, 2.5, self.ink["paper"]),
            ):
                tip = (x, y - sign * size)
                draw.polygon([tip, (x - 3, y + sign), (x + 3, y + sign)], fill=colour)
        taken: list[Box] = []
        for row, column in _largest(values):
            value = float(values[row, column])
            shift = 0 if panel.pooled.offsets is None else panel.pooled.offsets[row, token, column]
            text = (
                f"{panel.labels[row]} · {column * panel.pooled.width + int(shift)}  {number(value)}"
            )
            x, y = (
                panel.x(column, panel.columns),
                panel.base(row) - panel.swing * places[row, column],
            )
            circle = (x - 3, y - 3, x + 3, y + 3)
            draw.ellipse(circle, fill=self.ink["paper"], outline=self.ink["ink"])
            self._plate(draw, taken, text, x, float(y), panel)
            middle = panel.heat_top + (row + 0.5) * panel.heat_row
            half = max(7.0, panel.wide / panel.columns + 3) / 2, (panel.heat_row + 1) / 2
            frame = (x - half[0], middle - half[1], x + half[0], middle + half[1])
            draw.rectangle(frame, outline=self.ink["ink"])

    def _plate(
        self,
        draw: ImageDraw.ImageDraw,
        taken: list[Box],
        text: str,
        x: float,
        y: float,
        panel: Panel,
    ) -> None:
        """A name beside its mark, where it covers no other and stays inside; else none."""
        wide = draw.textlength(text, font(12)) + 8
        left, right = panel.left + GUTTER, panel.left + GUTTER + panel.wide
        for dx in (7.0, -7.0 - wide):
            for dy in (0.0, 15.0, -15.0):
                box = (x + dx, y + dy - 8, x + dx + wide, y + dy + 8)
                inside = left <= box[0] and box[2] <= right and panel.trace_top - 4 <= box[1]
                if inside and box[3] < panel.heat_top and not any(_overlap(box, b) for b in taken):
                    taken.append(box)
                    draw.rounded_rectangle(box, 3, self.ink["paper"])
                    at = (box[0] + 4, y + dy)
                    draw.text(at, text, self.ink["ink"], font(12), anchor="lm")
                    return

    def _legend(self, picture: Image.Image, draw: ImageDraw.ImageDraw) -> None:
        soft, small = self.ink["soft"], font(12)
        top = self.height - LEGEND
        left, wide = MARGIN + GUTTER, int((self.width - 2 * MARGIN) * 0.42)
        ramp = self.table[table_index(np.linspace(-1, 1, wide))][None].repeat(12, axis=0)
        picture.paste(Image.fromarray(ramp), (left, top))
        draw.rectangle((left - 1, top - 1, left + wide, top + 12), outline=self.ink["line"])
        drawn: list[float] = []
        for value in ticks(self.kind, self.shown.scale):
            x = left + (float(self._place(np.array(value))) + 1) / 2 * wide
            if any(abs(x - other) < 38 for other in drawn):
                continue
            drawn.append(x)
            draw.line((x, top + 13, x, top + 16), soft)
            draw.text((x, top + 24), number(value), soft, small, anchor="mm")
        x = left + wide + 36
        for index, line in enumerate(self._sentences()):
            room = self.width - MARGIN - x
            draw.text((x, top - 2 + 16 * index), fitted(line, 12, room), soft, small)

    def _sentences(self) -> list[str]:
        one = self.shown.scale[self.kind]
        about = f"Linear, limit ±{one['limit']:g}, what lies beyond is marked by triangles"
        if self.kind == "symlog":
            about = f"Symmetric log, linear within ±{one['threshold']:g}, limit ±{one['limit']:g}"
        pooled = max(
            -(-one.record.values.shape[2] // min(one.columns, self._room(one)))
            for one in self.panels
        )
        columns = (
            f"; a column shows the largest in size of up to {pooled} channels" if pooled > 1 else ""
        )
        return [
            f"One scale for all models and moments. {about}.",
            f"Bands: all tokens, 90 % and the middle half of them{columns}.",
        ]


def _piece(record: ModelRecord, index: int) -> str:
    if record.token_texts is None:
        return f"{record.token_ids[index]} "
    return drawable(record.token_texts[index])


def _mixed(ground: str, over: str, part: float) -> str:
    both = [bytes.fromhex(colour[1:]) for colour in (ground, over)]
    mixed = (round(a + (b - a) * part) for a, b in zip(*both, strict=True))
    return "#" + bytes(mixed).hex()


def _runs(known: npt.NDArray[np.bool_]) -> Iterator[slice]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(np.int8), [0]])))
    for start, stop in edges.reshape(-1, 2):
        yield slice(int(start), int(stop))


def _largest(values: Floats) -> list[tuple[int, int]]:
    """The places of a moment's largest finite values, at most two of one row."""
    size = np.where(np.isfinite(values), np.abs(values), -1.0)
    best = np.argsort(-size, axis=1, kind="stable")[:, :2]
    found = [(int(row), int(column)) for row in range(len(values)) for column in best[row]]
    found = [at for at in found if size[at] > 0]
    return sorted(found, key=lambda at: -size[at])[:NAMED]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and a[2] > b[0] and a[1] < b[3] and a[3] > b[1]
