"""The rows of the table of speed on the GPU, one file a subject."""
