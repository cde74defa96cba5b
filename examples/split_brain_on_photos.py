"""Trains a split-brain autoencoder on photos (Zhang et al. 2017).

One encoder predicts color from lightness, the other lightness from color, both as classes.
"""

import sys

import ssl_pretext as sp


def main(out: str = "runs/split_brain_on_photos", epochs: int = 10) -> sp.ProbeReport:
    """Pretrains, evaluates two layers, and prints the table with its controls."""
    train, test = sp.sample_photos("train", image_size=32), sp.sample_photos("test", image_size=32)
    losses = [{"color_classification[neighbors=1;rebalance=1]": 1.0}, {"channel_classification[bins=50]": 1.0}]
    task = sp.SplitBrain("lab:L", "lab:ab", "timm/resnet10t[layer=layer2]", losses=losses, output_stride=4)
    sp.fit(task, train, sp.FitConfig(out=out, epochs=epochs, learning_rate=1e-3))
    layers = {layer: task.representation(layer) for layer in ("layer1", "layer2")}
    report = sp.evaluate({"pixels": sp.Pixels("lab"), **layers}, train, test, probe="linear", seeds=3)
    print(report.table())
    return report


if __name__ == "__main__":
    main(*sys.argv[1:2])
