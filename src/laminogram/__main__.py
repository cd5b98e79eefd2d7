"""`python -m laminogram` is the same as `laminogram`."""

from __future__ import annotations

from laminogram.cli.main import main

if __name__ == "__main__":
    main()
