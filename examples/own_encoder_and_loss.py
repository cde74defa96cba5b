"""A network and a loss of your own, by name in every configuration and checkpoint."""

import sys

import torch
from torch import Tensor, nn
from typing_extensions import override

import ssl_pretext as sp


@sp.register_encoder("my_net")
def my_net(in_channels: int, width: int = 32) -> nn.Module:
    """Any module `(B, in_channels, H, W)` to `(B, C, h, w)`."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 4, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
    )


@sp.register_loss("gradient_l1")
class GradientL1(sp.Loss):
    """The difference of neighboring pixels should be that of the truth: `|∇x - ∇y|`."""

    @override
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        difference = prediction - target
        return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def main(out: str = "runs/own_encoder_and_loss", epochs: int = 10) -> sp.PretextTask:
    train = sp.sample_photos("train", image_size=32)
    losses = {"smooth_l1": 1.0, "gradient_l1": 0.5}
    task = sp.CrossChannelPrediction("ycbcr:Y", "ycbcr:CbCr", "my_net[width=16]", losses=losses)
    history = sp.fit(task, train, sp.FitConfig(out=out, epochs=epochs, learning_rate=1e-3))
    print(f"loss {history[0]['train_loss']:.4f} to {history[-1]['train_loss']:.4f}")
    again = sp.PretextTask.from_pretrained(f"{out}/task")
    assert torch.equal(again.features(train.images([0])), task.eval().features(train.images([0])))
    return again


if __name__ == "__main__":
    main(*sys.argv[1:2])
