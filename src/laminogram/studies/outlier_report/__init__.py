"""All that is asked of a model's outliers as one report: see `report`."""

from __future__ import annotations

from laminogram.studies.outlier_report.cost import Cost
from laminogram.studies.outlier_report.report import OutlierReport, outlier_report
from laminogram.studies.outlier_report.settings import Settings

__all__ = ["Cost", "OutlierReport", "Settings", "outlier_report"]
