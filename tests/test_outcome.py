"""Hits survive packing, and take little room."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl_pretext.probes.outcome import pack_scores, unpack_scores


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_unpacking_inverts_packing(hits):
    np.testing.assert_array_equal(unpack_scores(pack_scores(torch.tensor(hits)), len(hits)), hits)


def test_a_hundred_thousand_images_take_seventeen_kilobytes():
    hits = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) < 0.5
    assert 20 * 5 * len(pack_scores(hits)) < 1.7e6, "20 rows and 5 seeds of bits, the most that cannot be compressed"
