"""Time of an augmentation of a batch, compared with torchvision and kornia."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import ssl_pretext as sp
from benchmarks.speed.peaks import seconds_at_bandwidth
from benchmarks.speed.timing import OURS, Measurement, RunOptions, time_in_turn
from ssl_pretext.augment import create_augmentation

__all__ = ["augmentation"]

SPEC = "random_resized_crop[min_area=0.2],horizontal_flip,color_jitter[p=1]"
COUNT, IMAGE_SIZE = 128, 64
JITTER = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation and hue


def augmentation(options: RunOptions) -> list[Measurement]:
    """Times a crop, a flip and color jitter of each image with random numbers of its own."""
    import kornia.augmentation as K
    from torchvision.transforms import v2

    count = 4 if options.small else COUNT
    photos = sp.sample_photos("train", image_size=IMAGE_SIZE)
    images = photos.images(range(count)).float() / 255
    keys, size = torch.arange(count), (IMAGE_SIZE, IMAGE_SIZE)
    ours = create_augmentation(SPEC)
    single = v2.Compose(
        [v2.RandomResizedCrop(size, scale=(0.2, 1.0)), v2.RandomHorizontalFlip(), v2.ColorJitter(*JITTER)]
    )
    batched = nn.Sequential(
        K.RandomResizedCrop(size, scale=(0.2, 1.0)), K.RandomHorizontalFlip(), K.ColorJitter(*JITTER, p=1.0)
    )
    variants: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: ours(images, keys),
        "torchvision v2, image by image": lambda: torch.stack([single(image) for image in images]),
        "kornia": lambda: batched(images),
    }
    with torch.no_grad():
        taken = time_in_turn(variants, rounds=options.rounds)
    return [
        Measurement(
            work=f"random crop, flip and color jitter of {'×'.join(map(str, images.shape))}",
            variants=taken,
            goals={"torchvision v2, image by image": 1.0, "kornia": 1.0},
            seconds_at_peak=seconds_at_bandwidth(2 * images.nbytes),
        )
    ]
