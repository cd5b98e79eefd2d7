"""What looks inside a run: recordings, streaming statistics, gradients, and edits."""
