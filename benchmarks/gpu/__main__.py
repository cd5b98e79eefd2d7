"""The command `python -m benchmarks.gpu`."""

import sys

from benchmarks.lab import main

if __name__ == "__main__":
    sys.exit(main("gpu", "cuda"))
