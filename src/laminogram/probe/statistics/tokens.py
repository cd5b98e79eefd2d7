"""Numbers of every token."""

from __future__ import annotations

import torch

from laminogram.errors import ConfigError
from laminogram.probe.statistics.base import State
from laminogram.probe.statistics.rows import Rows
from laminogram.probe.statistics.table import Listed


class Tokens(Listed):
    """Norm, largest |x| and kurtosis over the channels of every token.

    Its size grows by 57 bytes a token.
    `result()` gives arrays (n,), ordered by document and position: `document`, `position`, `norm`
    (Euclidean), `absmax`, `mean`, `kurtosis` (m4 / m2**2 about the token's mean, 3 for a Gaussian;
    NaN where the channels do not differ) and `nonfinite`, the number of channels left out. A token
    without any finite channel is NaN throughout.
    """

    name = "tokens"
    order = ("position", "document")
    grows_by = "tokens"

    def reduce(self, rows: Rows) -> State:
        """One number a row; rows that do not count are marked, and dropped when read."""
        if rows.documents is None or rows.positions is None:
            raise ConfigError("the statistic 'tokens' needs the document of every row")
        number, channels = rows.values.shape
        device = rows.values.device
        table = torch.empty(4, number, dtype=torch.float64, device=device)
        ones = torch.ones(channels, dtype=torch.float64, device=device)
        for part, distance, _ in rows.chunks():
            distance.copy_(rows.clean[part])
            valid = None if rows.valid is None else rows.valid[part]
            count = rows.row_counts[0][part]
            mean = (distance @ ones) / count
            distance.sub_(mean[:, None])
            if valid is not None:
                distance.masked_fill_(~valid, 0.0)
            squares = distance.square_() @ ones
            fourth = (distance.square_() @ ones) / count
            second = squares / count
            spread = second > (1e-13 * mean) ** 2
            table[0, part] = (squares + count * mean**2).sqrt()
            table[1, part] = mean
            table[2, part] = torch.where(spread, fourth / second**2, float("nan"))
        table[3] = rows.row_absmax.to(torch.float64)
        table.masked_fill_(table[3] < 0, float("nan"))
        keep = rows.keep
        return {
            "document": rows.documents,
            "position": rows.positions,
            "norm": table[0],
            "mean": table[1],
            "kurtosis": table[2],
            "absmax": table[3],
            "nonfinite": rows.row_counts[1],
            "keep": torch.ones_like(rows.documents, dtype=torch.bool) if keep is None else keep,
        }
