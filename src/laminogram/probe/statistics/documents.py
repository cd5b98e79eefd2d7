"""Numbers of every document: what most published outlier measures are means of.

Axes: N rows (tokens), C channels, B documents of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from laminogram.probe.statistics.base import State
from laminogram.probe.statistics.histogram import count_signed, middles
from laminogram.probe.statistics.rows import Rows
from laminogram.probe.statistics.table import Listed

_NAN = float("nan")


class Documents(Listed):
    """One line a document: its size, spread and shape over tokens and channels together.

    Every document must come whole, in one batch. Its size grows by 161 bytes a document. `result()`
    gives arrays (n,), ordered by document:

    - `document`, `tokens`, `count` (finite values), `nonfinite`: int64
    - `mean`, `variance`, `fourth`: mean and central moments of all values (tokens x channels)
    - `between_tokens`: variance over tokens of the token's mean over channels; `variance` less this
      is the mean variance over channels within a token
    - `within_channels`: variance over tokens, averaged over channels; `variance` less this is the
      variance over channels of the channel's mean
    - `absmax`, `absmax_rest`: the largest |x|, of all tokens and of all but the first
    - `median`: of |x|; `quartile_low`, `quartile_high`: of x; `mad`: median |x - median of x|. All
      four from the logarithmic histogram: within its bin, 4.4 per cent wide
    - `excess`: mean over tokens of max(0, mean(x**4) / s**4 - 3) with s the unbiased standard
      deviation over channels, and the fourth power not centred
    - `token_ratio`: the largest over tokens of max |x| / median |x| over channels (the lower of two
      middle values), and `token_absmax`: that token's max |x|
    - `norm_max`, `norm_median`: of the tokens' Euclidean norms

    Values that are not finite take no part; a document without any is NaN.
    """

    name = "documents"
    unique = True
    grows_by = "documents"

    def reduce(self, rows: Rows) -> State:
        """A line for each document of the batch."""
        ids, index = rows.groups
        groups = len(ids)
        number = torch.zeros(2, groups + 1, dtype=torch.int64, device=ids.device)
        counted, nonfinite = rows.row_counts
        number[0].index_add_(0, index, counted)
        number[1].index_add_(0, index, nonfinite)
        tokens = torch.zeros_like(number[0]).index_add_(0, index, torch.ones_like(index))[:groups]
        tall = _of_tokens(rows)
        line: State = {
            "document": ids,
            "tokens": tokens,
            "count": number[0, :groups],
            "nonfinite": number[1, :groups],
        }
        line |= _spread(rows, tall["sum"], number[0])
        line |= _peaks(rows, tall, groups)
        line |= _robust(rows)
        empty = line["count"] == 0
        for key, value in line.items():
            if value.is_floating_point():
                line[key] = value.masked_fill(empty, _NAN)
        return line | {"keep": tokens > 0}


def _of_tokens(rows: Rows) -> State:
    """Of every row (N,), float64: sum, norm, excess kurtosis, largest and median |x|."""
    values = rows.values
    out = torch.empty(4, len(values), dtype=torch.float64, device=values.device)
    ones = torch.ones(values.shape[1], dtype=torch.float64, device=values.device)
    for part, x, square in rows.chunks():
        x.copy_(rows.clean[part])
        counted = rows.row_counts[0][part].to(torch.float64)
        torch.mul(x, x, out=square)
        total, energy = x @ ones, square @ ones
        fourth = (square.square_() @ ones) / counted
        mean = total / counted
        x.sub_(mean[:, None])
        if rows.valid is not None:
            x.masked_fill_(~rows.valid[part], 0.0)
        variance = (x.square_() @ ones) / (counted - 1)
        out[0, part], out[1, part] = total, energy.sqrt()
        spread = variance > (1e-13 * mean) ** 2
        excess = torch.where(spread, fourth / variance**2 - 3, _NAN)
        out[2, part] = excess.clamp(min=0)
        size = values[part].abs()
        if rows.valid is not None:
            size = size.masked_fill(~rows.valid[part], _NAN)
        out[3, part] = size.nanmedian(1).values.to(torch.float64)
    return {
        "sum": out[0],
        "norm": out[1],
        "excess": out[2],
        "median": out[3],
        "absmax": rows.row_absmax.to(torch.float64),
    }


def _spread(rows: Rows, sums: Tensor, number: Tensor) -> State:
    """Moments about each document's mean, and how its variance splits, (B,) each."""
    index, groups = rows.groups[1], len(rows.groups[0])
    device, channels = sums.device, rows.values.shape[1]
    count = number.clamp(min=1).to(torch.float64)
    mean = torch.zeros(groups + 1, dtype=torch.float64, device=device)
    mean = mean.index_add_(0, index, sums) / count
    total = torch.zeros(3, groups + 1, dtype=torch.float64, device=device)
    by_channel = torch.zeros(groups + 1, channels, dtype=torch.float64, device=device)
    held = by_channel.new_zeros(by_channel.shape) if rows.valid is not None else None
    ones = torch.ones(channels, dtype=torch.float64, device=device)
    for part, distance, square in rows.chunks():
        place = index[part]
        distance.copy_(rows.clean[part]).sub_(mean[place][:, None])
        if rows.valid is not None and held is not None:
            distance.masked_fill_(~rows.valid[part], 0.0)
            held.index_add_(0, place, rows.valid[part].to(torch.float64))
        by_channel.index_add_(0, place, distance)
        torch.mul(distance, distance, out=square)
        counted = rows.row_counts[0][part].clamp(min=1)
        total[1].index_add_(0, place, (distance @ ones) ** 2 / counted)
        total[0].index_add_(0, place, square @ ones)
        total[2].index_add_(0, place, square.square_() @ ones)
    per_channel = (count / channels)[:, None] if held is None else held.clamp(min=1)
    between_channels = (by_channel**2 / per_channel).sum(1) / count
    variance, between_tokens, fourth = (total / count)[:, :groups]
    return {
        "mean": mean[:groups],
        "variance": variance,
        "fourth": fourth,
        "between_tokens": between_tokens,
        "within_channels": (variance - between_channels[:groups]).clamp(min=0),
    }


def _peaks(rows: Rows, tall: State, groups: int) -> State:
    """The largest values, ratios and norms of each document, (B,) each."""
    index = rows.groups[1]
    first = torch.zeros_like(index, dtype=torch.bool)
    if rows.positions is not None:
        first = rows.positions == 0
    empty = tall["absmax"] < 0
    ratio = (tall["absmax"] / tall["median"]).masked_fill(empty, -1.0)
    # A token of zeros alone has no peak.
    ratio = torch.where(ratio.isnan(), 0.0, ratio)
    peak = _largest(ratio, index, groups)
    at_peak = ratio == torch.nn.functional.pad(peak, (0, 1))[index]
    excess = torch.where(tall["excess"].isnan(), 0.0, tall["excess"])
    known = (~tall["excess"].isnan()).to(torch.float64)
    sums = torch.zeros(2, groups + 1, dtype=torch.float64, device=index.device)
    sums[0].index_add_(0, index, excess)
    sums[1].index_add_(0, index, known)
    rest = _largest(tall["absmax"].masked_fill(first, -1.0), index, groups)
    return {
        "excess": (sums[0] / sums[1])[:groups],
        "absmax": _largest(tall["absmax"], index, groups),
        "absmax_rest": rest.masked_fill(rest < 0, _NAN),
        "token_ratio": peak,
        "token_absmax": _largest(tall["absmax"].masked_fill(~at_peak, -1.0), index, groups),
        "norm_max": _largest(tall["norm"], index, groups),
        "norm_median": _middle(tall["norm"], index, groups),
    }


def _largest(values: Tensor, index: Tensor, groups: int) -> Tensor:
    """The largest of each group, (groups,); -1 where a group has none."""
    out = values.new_full((groups + 1,), -1.0)
    return out.scatter_reduce_(0, index, values, "amax")[:groups]


def _middle(values: Tensor, index: Tensor, groups: int) -> Tensor:
    """The median of each group, (groups,): the lower of two middle values."""
    order = torch.argsort(values, stable=True)
    order = order[torch.argsort(index[order], stable=True)]
    number = torch.zeros(groups + 1, dtype=torch.int64, device=index.device)
    number.index_add_(0, index, torch.ones_like(index))
    start = number.cumsum(0) - number
    place = (start + (number - 1).clamp(min=0) // 2).clamp(max=len(values) - 1)
    return values[order[place]][:groups]


def _robust(rows: Rows) -> State:
    """Median of |x|, quartiles and median absolute deviation of each document, (B,) each."""
    counts = count_signed(rows)
    value = middles(counts.device)
    center = _weighted_quantile(value.expand(counts.shape), counts, 0.5)
    size = value.abs().expand(counts.shape)
    away = (value - center[:, None]).abs()
    return {
        "median": _weighted_quantile(*_sorted(size, counts), 0.5),
        "quartile_low": _weighted_quantile(value.expand(counts.shape), counts, 0.25),
        "quartile_high": _weighted_quantile(value.expand(counts.shape), counts, 0.75),
        "mad": _weighted_quantile(*_sorted(away, counts), 0.5),
    }


def _sorted(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    values, order = values.sort(dim=1)
    return values, counts.gather(1, order)


def _weighted_quantile(values: Tensor, counts: Tensor, level: float) -> Tensor:
    """The smallest of the rising values (B, K) that this share of the counts does not exceed."""
    running = counts.cumsum(1)
    rank = (running[:, -1:] * level).ceil().clamp(min=1).to(running.dtype)
    place = torch.searchsorted(running, rank).clamp(max=values.shape[1] - 1)
    return values.gather(1, place)[:, 0]
