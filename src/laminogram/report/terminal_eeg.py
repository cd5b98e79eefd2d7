"""What the EEG shows, as text: each layer's quantile bands, and the largest channels."""

from __future__ import annotations

import numpy as np
from rich.console import Console

from laminogram.report.console import Page, number
from laminogram.report.pooling import QUANTILES, quantile_bands
from laminogram.report.terminal import print_peaks
from laminogram.studies.study import Study

SPARK_COLUMNS = 48
"""Letters of a layer's sparkline: each the value largest in size of a block of channels."""


def print_eeg(study: Study, console: Console | None = None) -> None:
    """For each model a line a layer: the quantiles of its values, and |x| over the channels at the
    last token; then the largest channels with layer, channel, value and token."""
    page = Page(console)
    for place, record in enumerate(study.records):
        if place:
            page.say("")
        layers, tokens, channels = record.values.shape
        page.title(f"{record.name}: {record.site} of {layers} steps, {tokens} tokens")
        # Over all tokens and channels of a layer: they count alike here.
        bands = quantile_bands(record.values.reshape(layers, tokens * channels, 1))[..., 0]
        last = np.abs(record.values[:, -1])
        blocks = np.array_split(last, min(SPARK_COLUMNS, channels), axis=1)
        peaks = np.stack([block.max(axis=1) for block in blocks], axis=1)
        rows = [
            [label, *(number(float(band[row])) for band in bands), page.spark(peaks[row], 0)]
            for row, label in enumerate(record.labels)
        ]
        names = [f"{quantile:.0%}" for quantile in QUANTILES]
        page.table(["layer", *names, "|x| at the last token:"], rows)
        print_peaks(page, record)
    page.say(
        "Quantiles of the values over all tokens and channels of a layer; in a sparkline a letter "
        "is a block of channels, full height the layer's largest."
    )
