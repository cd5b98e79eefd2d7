"""The definitions, one file each; see `laminogram.outliers.base.Definition`.

Those whose threshold was never published have none by default, and give numbers without a verdict.
"""
