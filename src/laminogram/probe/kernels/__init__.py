"""Statistics of a site in one read of its tensor, on a GPU, beside the plain ones they equal."""
