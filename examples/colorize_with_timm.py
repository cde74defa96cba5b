"""Trains colorization with a timm encoder and measures whether it helped.

Run it with `python examples/colorize_with_timm.py`; it needs no data.
"""

import sys

import ssl_pretext as sp


def main(out: str = "runs/colorize_with_timm", epochs: int = 10) -> sp.ProbeReport:
    """Pretrains, evaluates with a tenth of the labels, and prints the table with its controls."""
    train, test = sp.sample_photos("train", image_size=32), sp.sample_photos("test", image_size=32)
    task = sp.Colorization("timm/resnet10t[layer=layer2]", losses={"color_classification": 1.0}, output_stride=4)
    sp.fit(task, train, sp.FitConfig(out=out, epochs=epochs, learning_rate=1e-3))
    representations = {"pixels": sp.Pixels("rgb"), "colorization": task.representation()}
    report = sp.evaluate(representations, train, test, probe="linear", seeds=3, label_fraction=0.1)
    print(report.table())
    return report


if __name__ == "__main__":
    main(*sys.argv[1:2])
