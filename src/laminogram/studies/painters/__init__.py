"""The questions of "Transformer Layers as Painters", asked of any model.

    from laminogram.studies.painters import paint
    paint(laminogram.load("tiny-llama"), work="folder")

The paper: Sun, Pickett, Nain and Jones, arXiv 2407.09298; what each variant is stands in
`laminogram.plans.builders`.
"""

from laminogram.studies.painters.result import Painters
from laminogram.studies.painters.study import paint

__all__ = ["Painters", "paint"]
