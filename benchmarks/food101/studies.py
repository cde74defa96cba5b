"""The studies of the experiment: each answers a question of the source by probes and their controls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.food101.presets import study_title
from benchmarks.food101.protocol import ExperimentData
from ssl_pretext.data import ImageStore
from ssl_pretext.probes import LabelEfficiency, ProbeConfig, ProbeReport, evaluate, label_efficiency
from ssl_pretext.representations import Pixels, Representation, imagenet_reference
from ssl_pretext.tasks import Colorization

__all__ = ["DOMAINS", "LATENT", "LAYERS", "LIGHTNESS", "MIDDLE", "PIXELS", "Findings", "run_studies"]

DOMAINS = {"in": "in-domain", "out": "out-of-domain"}
LATENT, MIDDLE = "colorization latent", "colorization middle block"
PIXELS, LIGHTNESS = "RGB pixels", "L channel"
MIDDLE_LAYER = "body.mid_block"
LAYERS = (
    "body.conv_in",
    "body.down_blocks.0",
    "body.down_blocks.1",
    "body.down_blocks.2",
    MIDDLE_LAYER,
    "body.conv_act",
    "body.conv_out",
)
DOCUMENTED = "documented_conv"
NUCLEAR_NORM = 1e-3  # weight of the regularizer


@dataclass
class Findings:
    """The results of the studies.

    Attributes:
        reports: Probe reports by study and domain.
        labels: Reports of label efficiency by domain.
    """

    reports: dict[str, dict[str, ProbeReport]] = field(default_factory=dict)
    labels: dict[str, LabelEfficiency] = field(default_factory=dict)

    def best_layer(self) -> str | None:
        """The layer with the best linear probe on held-out training images of the in-domain classes.

        None if there are no linear probes of layers, or if no training images were held out because each class has only
        one.
        """
        report = self.reports["linear"]["in"] if "linear" in self.reports else None
        layers = [] if report is None else [layer for layer in LAYERS if layer in report.names]
        if report is None or not layers or not any("validation_accuracy" in run for run in report.runs):
            return None
        return report.best(layers)

    def results(self) -> dict[str, Any]:
        """The part of `results.json` that is about the probes."""
        reports = [
            ({"study": name, "domain": domain}, report)
            for name, domains in self.reports.items()
            for domain, report in domains.items()
        ]
        return {
            "probes": [
                where | run | {"history": thin_history(run["history"])}
                for where, report in reports
                for run in report.runs
            ],
            "label_probes": [
                {"domain": domain, "per_class": count} | run | {"history": thin_history(run["history"], 1)}
                for domain, curve in self.labels.items()
                for count, report in curve.reports.items()
                for run in report.runs
            ],
            "summary": [where | row for where, report in reports for row in report.summary()],
            "differences": [where | row for where, report in reports for row in report.against_controls()],
            "label_efficiency": [
                {"domain": domain, "per_class": count} | row
                for domain, curve in self.labels.items()
                for count, report in curve.reports.items()
                for row in report.summary()
            ],
            "chosen_layer": self.best_layer(),
            "probe_card": {
                name: {domain: report.card for domain, report in domains.items()}
                for name, domains in self.reports.items()
            },
            "label_card": {domain: list(curve.reports.values())[-1].card for domain, curve in self.labels.items()},
        }


def thin_history(history: list[dict[str, float]], rows: int = 10) -> list[dict[str, float]]:
    """Returns at most `rows` evenly spaced rows of a training history, with the last one, rounded to five decimals."""
    step = max(1, -(-len(history) // rows))
    return [{name: round(value, 5) for name, value in row.items()} for row in history[::-1][::step][::-1]]


def run_studies(
    task: Colorization,
    data: ExperimentData,
    config: Mapping[str, Any],
    *,
    cache: Path,
    device: str,
    log: Callable[..., None],
) -> Findings:
    """Runs the studies that the configuration names; probes that were trained before are read from the cache.

    Args:
        task: The pretrained task.
        data: The images by role.
        config: The configuration of the run, of which `studies`, `seeds`, `probe_epochs`, `label_counts`,
            `all_rows`, `conv_images` and `supervised` are used.
        cache: Folder of the run for features and finished probes.
        device: `"cpu"` or `"cuda"`.
        log: Function that logs the table of each study, with the arguments of `logging.info`.
    """
    findings = Findings()
    backbone = task.backbone()
    pixels: dict[str, Representation] = {PIXELS: Pixels("rgb"), LIGHTNESS: Pixels("lab:L")}
    maps = {LATENT: backbone.representation(name=LATENT), MIDDLE: backbone.representation(MIDDLE_LAYER, MIDDLE)}
    layers = {LATENT: maps[LATENT]}
    read = {PIXELS: pixels[PIXELS]} | layers
    if config["all_rows"]:
        read = pixels | layers | {name: backbone.representation(name) for name in LAYERS}
    controls = config["all_rows"] or ("untrained", "histogram")
    reference = [imagenet_reference()] if config["supervised"] else []
    supervised = {representation.name: representation for representation in reference}
    shared = {"seeds": config["seeds"], "cache": cache, "device": device}
    by_steps = shared | {"epochs": config["probe_epochs"]}
    reduced = ("untrained", "reduced")
    regularized = ProbeConfig(regularizers={"nuclear_norm": NUCLEAR_NORM})
    networks: dict[str, Callable[[ImageStore, ImageStore], ProbeReport]] = {
        "conv": lambda train, test: evaluate(pixels | maps, train, test, probe=DOCUMENTED, **by_steps),
        "linear": lambda train, test: evaluate(
            read | supervised, train, test, probe="linear", controls=controls, **shared
        ),
        "regularized": lambda train, test: evaluate(
            maps, train, test, probe=DOCUMENTED, training=regularized, controls=reduced, **by_steps
        ),
        "resnet": lambda train, test: evaluate(maps, train, test, probe="resnet", controls=reduced, **by_steps),
    }
    for name in config["studies"]:
        for domain, heading in DOMAINS.items():
            train, test = data.probe_train[domain], data.probe_test[domain]
            if name == "labels":
                fewest = int(train.labels.unique(return_counts=True)[1].min())
                counts = [count for count in config["label_counts"] if count <= fewest]
                best = findings.best_layer()
                compared = pixels | {LATENT: layers[LATENT]} | ({best: read[best]} if best else {}) | supervised
                curve = label_efficiency(
                    compared, train, test, per_class=counts, controls=("untrained", "histogram"), **shared
                )
                findings.labels[domain] = curve
                log("%s, %s classes\n%s\n", study_title(name, config), heading, curve.table())
                continue
            if name != "linear":
                train = balanced_subset(train, config["conv_images"])
            report = networks[name](train, test)
            findings.reports.setdefault(name, {})[domain] = report
            log("%s, %s classes\n%s\n", study_title(name, config), heading, report.table())
    return findings


def balanced_subset(images: ImageStore, most: int | None) -> ImageStore:
    """A subset of at most `most` images, with equally many (and at least one) of each class; all images for None."""
    if most is None or len(images) <= most:
        return images
    per_class = max(1, most // len(images.labels.unique()))
    chosen = [(images.labels == label).nonzero().flatten()[:per_class] for label in images.labels.unique()]
    return images.subset(sorted(int(index) for part in chosen for index in part))
