"""Conversion of photographs to sRGB: embedded ICC profiles, and the gamma and primaries of PNG files."""

import io
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["to_srgb"]

BLACK_POINT_COMPENSATION = 0x2000  # a flag of LittleCMS, for which early versions of Pillow 10 have no name
SRGB_TOLERANCE = 1  # levels; a profile that changes no color by more is sRGB, up to rounding
GRID = np.linspace(0, 255, 18).round().astype(np.uint8)  # levels of each channel at which profiles are compared
# The x and y of white (D65), red, green and blue in sRGB, in the order of the PNG chunk cHRM, and D50 as X, Y, Z.
SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
# A PNG whose numbers differ by less from those of sRGB is sRGB, as in libpng: many programs write them rounded.
CHROMATICITY_TOLERANCE, GAMMA_TOLERANCE = 0.01, 0.05


def to_srgb(image: Any) -> Any:
    """Converts a Pillow image without alpha to 8-bit sRGB.

    An embedded ICC profile is applied with LittleCMS (relative colorimetric, with black point compensation). Without
    one, a PNG file may state its gamma and primaries. A profile that is damaged, or of another color space than the
    image, is ignored, as in web browsers.
    """
    profile = image.info.get("icc_profile") or _png_profile(image.info)
    if image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if profile is not None and image.mode == "L" and b"RGB " in profile[16:20]:
        image = image.convert("RGB")  # a gray image with the profile of a color image has its tone curve
    transform = None if profile is None else _transform(profile, image.mode)
    if image.mode == "LAB":  # Pillow has no conversion of its own
        transform = transform or _transform(_lab_profile(), "LAB")
    if transform is not None:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")  # `convert` would copy the image


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> Any:
    """The transform from a profile to sRGB; None if the profile cannot be applied to this mode, or is sRGB already."""
    from PIL import Image, ImageCms

    srgb = ImageCms.createProfile("sRGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        flags: Any = BLACK_POINT_COMPENSATION
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB", intent, flags)
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode in ("L", "RGB"):
        channels = np.meshgrid(*[GRID] * len(mode), indexing="ij") if mode == "RGB" else [GRID]
        colors = Image.merge(mode, [Image.fromarray(channel.reshape(1, -1)) for channel in channels])
        change = np.asarray(transform.apply(colors), np.int16) - np.asarray(colors.convert("RGB"), np.int16)
        if np.abs(change).max() <= SRGB_TOLERANCE:
            return None
    return transform


@lru_cache(maxsize=1)
def _lab_profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def _png_profile(info: Mapping[str, Any]) -> bytes | None:
    """The ICC profile that the chunks gAMA and cHRM of a PNG file describe; None if they are missing, sRGB or invalid.

    The chunk sRGB takes precedence. Without gAMA, the tone curve is that of sRGB.
    """
    gamma, chromaticities = info.get("gamma"), info.get("chromaticity", SRGB_CHROMATICITIES)
    if "srgb" in info or (gamma is None and "chromaticity" not in info):
        return None
    standard = np.allclose(chromaticities, SRGB_CHROMATICITIES, rtol=0, atol=CHROMATICITY_TOLERANCE)
    if standard and (gamma is None or abs(2.2 * gamma - 1) <= GAMMA_TOLERANCE):
        return None
    try:
        # Curves of ICC profiles: a power, or a power above a line.
        curve = (0, [1 / gamma]) if gamma else (3, [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045])
        return _matrix_profile(_xyz_from_rgb(chromaticities), *curve)
    except (ArithmeticError, ValueError, np.linalg.LinAlgError, struct.error):
        return None


def _xyz_from_rgb(chromaticities: tuple[float, ...]) -> Any:
    """The matrix from linear RGB to XYZ, adapted to the white D50 of ICC profiles by the method of Bradford."""
    x, y = np.array(chromaticities, np.float64).reshape(4, 2).T
    if not (y > 0).all():
        raise ValueError("a chromaticity is not a color")
    white, *primaries = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)
    columns = np.stack(primaries, axis=1)
    adaptation = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD
    return adaptation @ columns * np.linalg.solve(columns, white)


def _matrix_profile(xyz_from_rgb: Any, curve: int, parameters: list[float]) -> bytes:
    """An ICC profile of version 4 with a matrix and one parametric curve for all channels."""

    def fixed(*numbers: float) -> bytes:
        return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))

    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50)}
    for name, column in zip((b"r", b"g", b"b"), xyz_from_rgb.T, strict=True):
        tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*column)
        tags[name + b"TRC"] = b"para\0\0\0\0" + struct.pack(">HH", curve, 0) + fixed(*parameters)
    start, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x12s48x",
        *(start + len(body), 0x04300000, b"mntr", b"RGB ", b"XYZ ", b"acsp", fixed(*D50)),
    )
    return header + table + body
