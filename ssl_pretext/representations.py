"""Representations: named frozen functions from images to features, which is all that a probe sees of a network."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ssl_pretext.channels import Channels
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError

__all__ = ["Pixels", "Representation"]


class Representation:
    """A named frozen function from images to features.

    Args:
        name: How messages call it.
        encode: Image batches `(B, C, H, W)`, `uint8` or floating, to features `(B, C, h, w)`.
        describe: What decides its values, JSON-ready, for the probe card.
        untrained: The same network with weights drawn from a seed: the control that `evaluate` adds.
        module: The network behind `encode`, put into eval mode and on the device while it is used.

    Examples:
        >>> halves = Representation("half size", lambda images: images[:, :, ::2, ::2].float())
        >>> store = ImageStore.from_arrays(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), [0, 0, 1, 1])
        >>> halves.features(store, device="cpu").shape
        torch.Size([4, 3, 4, 4])
    """

    def __init__(
        self,
        name: str,
        encode: Callable[[Tensor], Tensor],
        *,
        describe: Mapping[str, object] | None = None,
        untrained: "Callable[[int], Representation] | None" = None,
        module: nn.Module | None = None,
    ) -> None:
        self.name, self.encode, self.untrained, self.module = name, encode, untrained, module
        self.describe = dict(describe or {})

    def features(self, images: ImageStore, *, device: str | torch.device, batch_size: int = 256) -> Tensor:
        """Features of a whole store, `(N, C, h, w)` in float32 on the CPU.

        Raises:
            ArgumentError: Features are no maps, or not finite.
        """
        features = torch.empty(0)
        with _frozen(self.module, device), torch.no_grad():
            for indices in torch.arange(len(images)).split(batch_size):
                batch = self.encode(images.images(indices).to(device)).float().cpu()
                if batch.dim() != 4:
                    raise ArgumentError(
                        f"{self.name!r} gave features of shape {tuple(batch.shape)} instead of (B, C, h, w)"
                    )
                if not batch.isfinite().all():
                    raise ArgumentError(
                        f"{self.name!r} gave features that are not finite; its training may have diverged"
                    )
                if len(features) == 0:  # filled in place: joining batches would hold all features twice
                    features = torch.empty(len(images), *batch.shape[1:])
                features[indices] = batch
        return features


class Pixels(Representation):
    """The normalised channels of the image itself, the baseline that every encoder must beat.

    Args:
        channels: Such as `"rgb"` or `"lab:L"`.

    Examples:
        >>> Pixels("lab:L").encode(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, channels: str | Channels) -> None:
        chosen = Channels.parse(channels)
        # A missing value counts as the centre of its band, as an encoder sees it.
        super().__init__(
            f"pixels:{chosen}",
            lambda images: chosen.extract(images).nan_to_num(0.0),
            describe={"channels": str(chosen)},
        )


@contextmanager
def _frozen(module: nn.Module | None, device: str | torch.device) -> Iterator[None]:
    """Puts the module on the device and in eval mode, and back again."""
    if module is None:
        yield
        return
    home = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    modes = {part: part.training for part in module.modules()}
    module.to(device).eval()
    try:
        yield
    finally:
        module.to(home)
        for part, training in modes.items():
            part.training = training
