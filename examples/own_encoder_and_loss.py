"""Registers an encoder and a loss under names, which then work in every configuration and checkpoint."""

import sys

import torch
from torch import Tensor, nn
from typing_extensions import override

import ssl_pretext as sp


@sp.register_encoder("my_net")
def my_net(in_channels: int, width: int = 32) -> nn.Module:
    """An encoder is any module from `(B, in_channels, H, W)` to `(B, C, h, w)`."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 4, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
    )


@sp.register_loss("gradient_l1")
class GradientL1(sp.Loss):
    """The mean absolute error of the differences between neighboring pixels: `|∇x - ∇y|`."""

    @override
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        difference = prediction - target
        return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def main(out: str = "runs/own_encoder_and_loss", epochs: int = 10) -> sp.PretextTask:
    """Pretrains, loads the saved task again, and returns it."""
    train = sp.sample_photos("train", image_size=32)
    losses = {"smooth_l1": 1.0, "gradient_l1": 0.5}
    task = sp.CrossChannelPrediction("ycbcr:Y", "ycbcr:CbCr", "my_net[width=16]", losses=losses)
    history = sp.fit(task, train, sp.FitConfig(out=out, epochs=epochs, learning_rate=1e-3))
    print(f"training loss: {history[0]['train_loss']:.4f} to {history[-1]['train_loss']:.4f}")
    again = sp.PretextTask.from_pretrained(f"{out}/task")
    image = train.images([0])
    if not torch.equal(again.features(image), task.eval().features(image)):
        raise RuntimeError("the loaded task computes other features than the trained one")
    return again


if __name__ == "__main__":
    main(*sys.argv[1:2])
