"""The results page of fine-tuning."""

from collections.abc import Mapping
from typing import Any

from benchmarks.report_tables import machine
from ssl_pretext.probes import ProbeReport

__all__ = ["ENCODER", "EPOCHS", "FINETUNING_EPOCHS", "HEADINGS", "PER_CLASS", "sections"]

ENCODER = "timm/resnet18[layer=layer3]"
PER_CLASS = 10
EPOCHS = 12
FINETUNING_EPOCHS = 60
HEADINGS = {
    "finetune": "Fine-tuned: the network is trained further on the labeled photos",
    "linear": "Frozen: a linear probe on the same features, for comparison",
}


def sections(results: Mapping[str, Any]) -> list[str]:
    """The body of the results page."""
    counts = results["counts"]
    parts = [
        f"Data: **EuroSAT in RGB**, 64 px, our own split. {counts['pretraining']:,} photos without labels for "
        f"pretraining, {PER_CLASS} labeled photos per class of the training part, and {counts['test']:,} test photos. "
        "Neighboring places may lie on both sides of the split, which raises all accuracies alike.",
        f"```bash\n{results['command']}\n```",
        f"{machine(results['environment'])} "
        f"The pretext task is contrast of lightness with color, `{ENCODER}`, {EPOCHS} epochs, AdamW with learning rate "
        "1e-3, flips and shifts. Each seed has another pretraining and other labeled photos. Networks are fine-tuned "
        f"for {FINETUNING_EPOCHS} epochs.",
    ]
    for probe, heading in HEADINGS.items():
        report = ProbeReport.from_dict(results["finetuning"][probe])
        sentences = "\n".join(f"- {sentence}" for sentence in report.sentences())
        parts += [f"## {heading}", report.table(), sentences]
    return parts
