"""Streaming statistics at sites: what a site's values are like, without keeping the values.

One statistic is one file here, found by its name. Every statistic reduces a batch of rows, and
joins two reductions; so batches, processes and machines can be joined in any order.
"""

from __future__ import annotations

from laminogram.probe.statistics.base import Statistic, available, create, find
from laminogram.probe.statistics.measurement import Measurement
from laminogram.probe.statistics.rows import Rows

__all__ = ["Measurement", "Rows", "Statistic", "available", "create", "find"]
