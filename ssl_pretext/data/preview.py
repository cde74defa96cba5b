"""Small pictures of images, for people to look at."""

import io

import torch
from torch import Tensor

__all__ = ["preview"]

SIDE = 96  # pixels of the longer side
DARKEST, BRIGHTEST = 0.02, 0.98  # quantiles that become black and white


def preview(image: Tensor) -> bytes:
    """Draws an image: photos as they are, and otherwise the first channel in gray, from its darkest to its brightest.

    Args:
        image: Pixels `(C, H, W)`, `uint8` or floating-point; missing values are black.

    Returns:
        The picture as a PNG.

    Examples:
        >>> preview(torch.zeros(3, 8, 8, dtype=torch.uint8))[1:4]
        b'PNG'
    """
    from PIL import Image

    if image.shape[0] == 3 and image.dtype == torch.uint8:
        pixels = image.permute(1, 2, 0).contiguous()
    else:
        values = image[0].float()
        low, high = values.nanquantile(DARKEST), values.nanquantile(BRIGHTEST)
        pixels = ((values - low) / (high - low)).nan_to_num(0).clamp(0, 1).mul(255).round().byte()
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    picture = Image.fromarray(pixels.numpy())
    picture = picture.resize((max(1, round(scale * width)), max(1, round(scale * height))), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
