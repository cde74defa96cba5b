import zlib

import numpy as np
import pytest

from ssl_pretext.data.checksums import Checksums, checksum
from ssl_pretext.errors import DataError


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_checksum_is_the_crc32_of_the_bytes(dtype):
    image = np.arange(24).astype(dtype).reshape(2, 3, 4)
    assert checksum(image) == zlib.crc32(image.tobytes())
    assert checksum(image.transpose(2, 0, 1)) == zlib.crc32(image.transpose(2, 0, 1).tobytes())


def test_each_image_is_checked_once(pixels, tmp_path):
    checksums = Checksums([checksum(image) for image in pixels], tmp_path)
    checksums.check(pixels, np.array([0, 2]))
    pixels[[0, 3], 1, 2, 3] ^= 1
    checksums.check(pixels, np.array([0, 1, 2]))  # image 0 was checked before it changed
    for _ in range(2):  # an image that failed is checked again
        with pytest.raises(DataError, match=r"is damaged; delete that folder and .* \(image 3 has changed\)"):
            checksums.check(pixels, np.array([1, 3]))
