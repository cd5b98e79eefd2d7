"""Plans: in which order the layers of a stack run. Needs no torch.

A plan says what runs; `stack.forward` runs it.
"""

from laminogram.plans import builders, mergekit
from laminogram.plans.cost import Cost, Figures
from laminogram.plans.plan import Group, Item, Kind, Part, Plan, Step

__all__ = [
    "Cost",
    "Figures",
    "Group",
    "Item",
    "Kind",
    "Part",
    "Plan",
    "Step",
    "builders",
    "mergekit",
]
