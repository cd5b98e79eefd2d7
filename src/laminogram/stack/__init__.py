"""The model: configuration, sites, plans, layers, mixers, caches, and the one forward path."""
