"""Speed beside the peers and the limits of the machine: `python -m benchmarks.gpu`, `….cpu`."""
