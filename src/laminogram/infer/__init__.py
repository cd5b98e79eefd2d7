"""Generation: sampling, text as it comes, caches that can be kept, decode steps in a graph."""
