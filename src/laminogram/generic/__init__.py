"""Models that no family file knows, run by `transformers` layer by layer under the same words.

The only room that uses hooks, and the only one that imports `transformers` to compute.
"""
