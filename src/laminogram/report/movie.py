"""The EEG as a moving picture: GIF through Pillow, MP4 through PyAV (the extra `movie`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from laminogram.errors import ConfigError
from laminogram.report.still import Stills

HEAT_COLOURS = 96
"""Of the 256 colours of a GIF so many are the heat map's; the others are mixes of the inks."""


def gif_colours(stills: Stills) -> npt.NDArray[np.uint8]:
    """Return the colours that all frames of a GIF share, (at most 256, 3)."""
    heat = stills.table[np.rint(np.linspace(0, 255, HEAT_COLOURS)).astype(int)]
    ink = {name: np.array(list(bytes.fromhex(hexed[1:]))) for name, hexed in stills.ink.items()}
    paper = ink["paper"]
    colours = [paper, ink["band"], ink["middle"], ink["line"], stills.table[-1], *heat]
    colours += [paper + (ink["band"] - paper) * part for part in (0.3, 0.45, 0.7)]
    for name, steps in (("trace", 16), ("ink", 14), ("soft", 14), ("accent", 6), ("focus", 10)):
        colours += [paper + (ink[name] - paper) * (i + 1) / steps for i in range(steps)]
    for ground in ("band", "middle"):
        colours += [ink[ground] + (ink["trace"] - ink[ground]) * i / 14 for i in range(1, 14)]
    return np.rint(np.array(colours, dtype=np.float64))[:256].astype(np.uint8)


class Quantiser:
    """Turns RGB pictures into pictures of one palette, each pixel the nearest colour there is.

    Pillow's own quantiser compares by a coarse grid and moves the ground by several levels.
    """

    def __init__(self, colours: npt.NDArray[np.uint8]) -> None:
        self.colours = colours.astype(np.int64)
        self.raw = colours.tobytes() + bytes(3) * (256 - len(colours))
        self.nearest = np.full(1 << 24, -1, dtype=np.int16)

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return the picture in mode P."""
        pixels = np.asarray(picture).astype(np.int64)
        packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
        index = self.nearest[packed]
        new = np.unique(packed[index < 0])
        if new.size:
            rgb = np.stack([new >> 16, new >> 8 & 255, new & 255], axis=1)
            # |a - b|² without |a|², which is the same for all colours.
            far = (self.colours**2).sum(1) - 2 * rgb @ self.colours.T
            self.nearest[new] = far.argmin(1)
            index = self.nearest[packed]
        drawn = Image.fromarray(index.astype(np.uint8))
        drawn.putpalette(self.raw)
        return drawn


def write_gif(stills: Stills, path: Path, fps: float) -> None:
    """Write every moment as a GIF that plays for ever, `fps` moments a second (at most 50)."""
    quantise = Quantiser(gif_colours(stills))
    every = (quantise(stills.draw(moment)) for moment in range(len(stills)))
    first = next(every)
    # The time of a GIF's frame is a whole number of hundredths of a second.
    duration = max(2, round(100 / fps)) * 10
    first.save(
        path, format="GIF", save_all=True, append_images=every, duration=duration, loop=0
    )  # fmt: skip


def need_av() -> Any:
    """Return the module `av`; raises `ConfigError` naming the extra where it is absent."""
    try:
        import av
    except ImportError as error:
        raise ConfigError("an MP4 needs PyAV: pip install 'laminogram[movie]'") from error
    return av


def write_mp4(stills: Stills, path: Path, fps: float) -> None:
    """Write every moment as H.264 in MP4, `fps` moments a second."""
    av = need_av()
    from fractions import Fraction

    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = stills.width, stills.height
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "22", "preset": "medium", "tune": "animation"}
        for moment in range(len(stills)):
            frame = av.VideoFrame.from_image(stills.draw(moment))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
