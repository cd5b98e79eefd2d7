"""Every axis in the table of sites has a meaning, and every meaning an axis."""

from laminogram.stack import sites


def test_every_letter_is_explained() -> None:
    used = {axis for site in sites._TABLE for axis in site.axes if not axis.isdigit()}
    assert used == set(sites.AXES)
