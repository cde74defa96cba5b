import numpy as np
import pytest
import torch

from ssl_pretext.arguments import whole_number
from ssl_pretext.errors import ArgumentError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_of_any_type_become_int(value):
    number = whole_number("epochs", value)
    assert (number, type(number)) == (3, int)


def test_the_smallest_value_is_accepted():
    assert whole_number("epochs", 1) == 1
    assert whole_number("depth", 0, least=0) == 0
    assert whole_number("seed", -5, least=-5) == -5


@pytest.mark.parametrize("value", [0, -1, True, 2.0, np.float32(2), "2", None, torch.tensor(2)])
def test_other_values_are_refused(value):
    with pytest.raises(ArgumentError, match="epochs .* of at least 1, got") as caught:
        whole_number("epochs", value)
    assert str(caught.value).endswith(f"got {value!r}")
    assert isinstance(caught.value, ValueError)


def test_the_limit_is_in_the_message():
    with pytest.raises(ArgumentError, match="num_permutations of jigsaw .* of at least 2, got 1"):
        whole_number("num_permutations of jigsaw", 1, least=2)
