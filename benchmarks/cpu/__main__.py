"""The command `python -m benchmarks.cpu`."""

import sys

from benchmarks.lab import main

if __name__ == "__main__":
    sys.exit(main("cpu", "cpu"))
