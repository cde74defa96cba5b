"""Evaluates a latent with stronger classifiers: a small ResNet, and a module of your own."""

import sys

from torch import nn

import ssl_pretext as sp


def mlp(in_channels: int, num_classes: int) -> nn.Module:
    """A probe is any module from features `(B, in_channels, h, w)` to logits `(B, num_classes)`."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.LazyLinear(256), nn.GELU(), nn.Linear(256, num_classes)
    )


def main(out: str = "runs/stronger_probe", epochs: int = 10) -> list[sp.ProbeReport]:
    """Pretrains, and prints the table of each probe."""
    train, test = sp.sample_photos("train", image_size=32), sp.sample_photos("test", image_size=32)
    task = sp.Colorization("autoencoder", losses={"smooth_l1": 1.0})
    sp.fit(task, train, sp.FitConfig(out=out, epochs=epochs, learning_rate=1e-3))
    latent, controls = {"latent": task.representation()}, ("untrained", "reduced")
    reports = []
    for probe in ("conv", "resnet", mlp):
        report = sp.evaluate(latent, train, test, probe=probe, epochs=epochs, seeds=3, per_class=10, controls=controls)
        print(report.card["probe"], report.table(), sep="\n", end="\n\n")
        reports.append(report)
    return reports


if __name__ == "__main__":
    main(*sys.argv[1:2])
