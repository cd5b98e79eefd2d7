"""Plans: in which order the layers of a stack run. Needs no torch.

A plan says what runs; `stack.forward` runs it.
"""

from laminogram.plans.plan import Group, Item, Kind, Part, Plan, Step

__all__ = ["Group", "Item", "Kind", "Part", "Plan", "Step"]
