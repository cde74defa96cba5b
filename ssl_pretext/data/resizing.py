"""Resizing of photographs and arrays: the shortest side to a number of pixels, then the square in the center."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssl_pretext.data.photo import MAX_PIXELS

__all__ = ["crop_array", "enlarge", "resize_and_crop", "resize_array", "resize_mask", "resized_shape"]

MAX_MISSING = 0.5  # a resized pixel is missing if more than this weight of the pixels averaged in it is missing


def resize_array(pixels: npt.NDArray[Any], image_size: int, *, crop: bool = True) -> npt.NDArray[Any]:
    """Resizes like a photograph, excluding missing values from every mean: `resize(v · valid) / resize(valid)`.

    Args:
        pixels: The array `(C, H, W)`, in which missing values are NaN.
        image_size: Number of pixels of the shortest side.
        crop: Whether the center is cut to a square.
    """
    resize = resize_and_crop if crop else _resize
    values = torch.from_numpy(pixels).float()
    valid = ~values.isnan()
    resized = resize(values.where(valid, 0), image_size)
    if not valid.all():
        weight = resize(valid.float(), image_size)
        resized = (resized / weight).where(weight >= 1 - MAX_MISSING, torch.nan)
    if pixels.dtype == np.uint8:
        resized = resized.round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(resized.numpy())


def enlarge(pixels: npt.NDArray[Any], size: tuple[int, int], rule: str) -> npt.NDArray[Any]:
    """Enlarges an array `(C, h, w)` to a height and width, which by the rule `"nearest"` may also be smaller.

    Args:
        pixels: The array, of type `uint8` or `float32`, in which missing values are NaN.
        size: The height and width.
        rule: `"nearest"`, or `"bilinear"`, where a pixel is missing if more than half of its weight is missing.
    """
    if rule == "nearest":
        rows, columns = (
            (np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(size, pixels.shape[1:], strict=True)
        )
        chosen: npt.NDArray[Any] = pixels[:, rows[:, None], columns]
        return chosen
    values = torch.from_numpy(pixels).float()
    valid = ~values.isnan()

    def interpolated(maps: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(maps[None], size, mode="bilinear")[0]

    enlarged = interpolated(values.where(valid, 0))
    if not valid.all():
        weight = interpolated(valid.float())
        enlarged = (enlarged / weight).where(weight >= 1 - MAX_MISSING, torch.nan)
    if pixels.dtype == np.uint8:
        enlarged = enlarged.round().to(torch.uint8)
    found: npt.NDArray[Any] = enlarged.numpy()
    return found


def resize_mask(mask: npt.NDArray[Any], image_size: int) -> npt.NDArray[Any]:
    """Resizes a mask `(1, H, W)` as its image is resized, where each pixel keeps the value that is nearest."""
    from torchvision.transforms import functional as F

    width, height = resized_shape(mask.shape[2], mask.shape[1], image_size)
    resized = torch.from_numpy(enlarge(mask, (height, width), "nearest"))
    return np.ascontiguousarray(F.center_crop(resized, [image_size]).numpy())


def crop_array(pixels: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Cuts the center of an array `(C, H, W)`.

    Raises:
        ValueError: The array is smaller.
    """
    height, width = pixels.shape[1:]
    if min(height, width) < size:
        raise ValueError(f"the image has {height}×{width} pixels, less than the crop of {size}×{size}")
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(pixels[:, top : top + size, left : left + size])


def resize_and_crop(image: Any, image_size: int) -> Any:
    """Resizes a Pillow image or a tensor `(C, H, W)`, and cuts the center."""
    from torchvision.transforms import functional as F

    return F.center_crop(_resize(image, image_size), [image_size])


def _resize(image: Any, image_size: int) -> Any:
    """Resizes the shortest side of a Pillow image or a tensor `(C, H, W)` to a number of pixels."""
    from torchvision.transforms import functional as F

    width, height = image.shape[:0:-1] if isinstance(image, Tensor) else image.size
    width, height = resized_shape(width, height, image_size)
    # Tensors are antialiased only on request; Pillow images always are.
    return F.resize(image, [height, width], antialias=True)


def resized_shape(width: int, height: int, image_size: int) -> tuple[int, int]:
    """The width and height of an image whose shortest side is resized to `image_size`, as in torchvision."""
    shortest = min(width, height)
    if image_size**2 * max(width, height) > MAX_PIXELS * shortest:
        raise ValueError(f"the aspect ratio of {width}×{height} pixels is too extreme to resize to {image_size} pixels")
    return int(image_size * width / shortest), int(image_size * height / shortest)
