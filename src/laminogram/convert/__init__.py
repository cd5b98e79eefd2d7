"""Conversion of checkpoints between families and between the forms of one, on disk.

A source is read through its family's rules into the canonical form (`StackConfig` and our names),
changed where the target asks for it (`changes`), written through the target's rules, and compared
with what it came from. Nothing here knows a family by name.
"""
