"""How much attention the first tokens get: a statistic of patterns.

Axes: B documents of a batch, H heads, S keys, K first keys, N rows (queries).
"""

from __future__ import annotations

from typing import Any

import torch

from laminogram.errors import ConfigError
from laminogram.probe.statistics.base import State
from laminogram.probe.statistics.rows import Rows
from laminogram.probe.statistics.table import Listed


class Sinks(Listed):
    """The importance of the first `keys` tokens for every head, one line a document.

    The importance of key k is the mean of A[t, k] over the queries t >= k among the first `length`
    tokens (Gu et al. 2025, sail-sg/Attention-Sink: 64). `result()` gives `document` and `tokens`
    (n,), and `importance` (n, H, K), NaN for a key that the document does not reach. The site is
    `pattern`; its size grows by 8 H K bytes a document.
    """

    name = "sinks"
    of_pattern = True
    unique = True
    grows_by = "documents"

    def __init__(self, keys: int = 4, length: int = 64) -> None:
        super().__init__()
        if keys < 1 or length < keys:
            raise ConfigError(f"keys must be at least 1 and length {keys}, not {keys} and {length}")
        self.keys, self.length = int(keys), int(length)

    def options(self) -> dict[str, Any]:
        """How many keys are watched, and among how many first tokens."""
        return {"keys": self.keys, "length": self.length}

    def reduce(self, rows: Rows) -> State:
        """Means over queries, document by document."""
        if len(rows.trailing) != 2 or rows.positions is None:
            raise ConfigError("the statistic 'sinks' reads the site 'pattern' of known documents")
        ids, index = rows.groups
        heads, _ = rows.trailing
        index = index.masked_fill(rows.positions >= self.length, len(ids))
        pattern = rows.clean.view(-1, *rows.trailing)[..., : self.keys].to(torch.float64)
        pattern = torch.nn.functional.pad(pattern, (0, self.keys - pattern.shape[2]))
        places = torch.arange(self.keys, device=ids.device)
        sees = (rows.positions[:, None] >= places).to(torch.float64)
        sums = pattern.new_zeros(len(ids) + 1, heads, self.keys)
        sums.index_add_(0, index, pattern * sees[:, None, :])
        queries = sees.new_zeros(len(ids) + 1, self.keys).index_add_(0, index, sees)[:-1]
        known = torch.where(queries > 0, queries, float("nan"))
        tokens = queries[:, 0].long()
        return {
            "document": ids,
            "tokens": tokens,
            "importance": sums[:-1] / known[:, None, :],
            "keep": tokens > 0,
        }
