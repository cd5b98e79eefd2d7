"""The model: configuration, sites, layers, mixers, caches, and the one forward path."""
