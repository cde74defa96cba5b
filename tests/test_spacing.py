"""The choice of a few images of many."""

import pytest

from ssl_pretext.spacing import evenly_spaced


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(5, 5, [0, 1, 2, 3, 4]), (3, 10, [0, 1, 2]), (10, 4, [0, 3, 6, 9]), (1, 3, [0]), (0, 3, []), (7, 1, [0])],
)
def test_positions_reach_from_the_first_to_the_last(count, most, expected):
    assert evenly_spaced(count, most).tolist() == expected


def test_positions_of_many_images_are_exact():
    count = 2**30 + 1
    assert evenly_spaced(count, 1025).tolist() == list(range(0, count, 2**20))
