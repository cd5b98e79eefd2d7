"""The rows of the table of speed on the CPU, one file a subject."""
