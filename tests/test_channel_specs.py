import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_pretext.channel_specs import join_spec, split_names, split_spec

NAMES = st.lists(st.text(st.sampled_from('aB0 ,:"+;(['), min_size=1, max_size=6), min_size=1, max_size=5, unique=True)


@given(st.text(st.sampled_from('ab ,:"+'), min_size=1, max_size=5), NAMES)
def test_any_names_are_written_and_read_back(space, names):
    text = join_spec(space, names, short=False)
    name, rest = split_spec(text)
    assert name == space
    assert split_names(rest, names, short=False) == tuple(names)


@pytest.mark.parametrize(
    ("space", "names", "text"),
    [
        ("s2", ["B02", "B03"], "s2:B02,B03"),
        ("cells", ["DNA stain"], "cells:DNA stain"),
        ("landsat", ["Band 4 (Red)", "CD4+"], "landsat:Band 4 (Red),CD4+"),
        ("a:b", ["x,y", 'the "best"'], '"a:b":"x,y","the ""best"""'),
    ],
)
def test_names_are_quoted_only_where_they_must_be(space, names, text):
    assert join_spec(space, names, short=False) == text


def test_a_plus_sign_joins_names_unless_it_belongs_to_one():
    assert split_names("CD4++CD8+", ["CD4+", "CD8+"], short=False) == ("CD4", "", "CD8", "")  # the caller refuses it
    assert split_names("CD4+,CD8+", ["CD4+", "CD8+"], short=False) == ("CD4+", "CD8+")
    assert split_names("B02 + B03,B04", ["B02", "B03", "B04"], short=False) == ("B02", "B03", "B04")
    assert split_names("a+b", ["a", "b", "a+b"], short=True) == ("a+b",)
    assert split_names("CbCr", ["Y", "Cb", "Cr"], short=True) == ("Cb", "Cr")
    assert split_names("xy", ["Y", "Cb", "Cr"], short=True) == ("x", "y")
