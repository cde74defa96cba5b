"""Fine-tuning on few labeled satellite photos: `python -m benchmarks.finetuning`.

Networks are fine-tuned from pretrained and from random weights, with ten labels per class.
It needs EuroSAT in RGB (Helber et al. 2019), one folder of JPEG files for each class.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import torch

import ssl_pretext as sp
from benchmarks.finetuning.page import ENCODER, EPOCHS, FINETUNING_EPOCHS, HEADINGS, PER_CLASS
from benchmarks.food101.experiment import environment
from benchmarks.harness import compact
from benchmarks.result_page import store_and_publish
from ssl_pretext.cli.command import run_command
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import read_json, write_json
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.fit import fit

log = logging.getLogger("benchmarks.finetuning")

NAME = "L–ab contrast"
TEST_FRACTION, TEST_PER_CLASS = 0.3, 60


def run(folder: Path, out: Path, *, images: int, seeds: int, device: str) -> dict[str, Any]:
    """Pretrains one network per seed and evaluates all; what the folder `out` holds already is not computed again."""
    store = sp.ImageStore.from_folder(folder, image_size=64)
    kept, held_out = sp.holdout_split(store.names, store.labels, fraction=TEST_FRACTION)
    train, rest = store.subset(kept), store.subset(held_out)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:images]
    unlabeled = train.subset(order)
    places = [
        place for label in range(len(rest.classes)) for place in (rest.labels == label).nonzero()[:TEST_PER_CLASS]
    ]
    test = rest.subset(torch.cat(places))
    networks = [_pretrained(unlabeled, seed, out / f"pretraining-{seed}", device) for seed in range(seeds)]
    reports = {}
    for probe in HEADINGS:
        file = out / f"{probe}.json"
        if not file.exists():
            report = sp.evaluate(
                {NAME: [network.representation() for network in networks]}, train, test,
                probe=probe, per_class=PER_CLASS, seeds=seeds, cache=out / "cache", device=device,
                controls=["untrained"] if probe == "finetune" else True,
                epochs=FINETUNING_EPOCHS if probe == "finetune" else None,
            )  # fmt: skip
            log.info("%s\n%s", probe, report)
            write_json(file, compact(report))
        reports[probe] = read_json(file)
    counts = {"pretraining": len(unlabeled), "labeled": PER_CLASS * len(store.classes), "test": len(test)}
    return {"counts": counts, "finetuning": reports}


def _pretrained(images: sp.ImageStore, seed: int, out: Path, device: str) -> sp.PretextTask:
    if (out / "task" / "config.json").exists():
        return sp.PretextTask.from_pretrained(out / "task")
    torch.manual_seed(seed)
    task = sp.create_task("cross_channel_contrast", first="lab:L", second="lab:ab", encoder=ENCODER)
    config = FitConfig(
        out=out, epochs=EPOCHS, learning_rate=1e-3, schedule="constant", warmup=0, augment="shift,horizontal_flip",
        seed=seed, precision="bf16-mixed", device=device, resume=True,
    )  # fmt: skip
    fit(task, images, config)
    return task.eval()


def main() -> int:
    """Runs the comparison and writes `results.json` and its page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetuning", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of EuroSAT's class folders")
    parser.add_argument("--out", type=Path, default=Path("runs/finetuning"), metavar="DIR", help="output folder")
    parser.add_argument("--images", type=int, default=1_500, help="number of photos for pretraining")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, each with a pretraining of its own")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args()

    def work() -> None:
        device = resolve_device(options.device, "--device")
        with exclusive_lock(options.out):
            found = run(options.data, options.out, images=options.images, seeds=options.seeds, device=device)
        results = {
            "title": "Fine-tuning with ten labels per class",
            "command": f"python -m benchmarks.finetuning --data=DIR --images={options.images} --seeds={options.seeds}",
            "environment": environment(device),
            **found,
        }
        store_and_publish(results, options.out)

    return run_command("benchmarks.finetuning", work)


if __name__ == "__main__":
    sys.exit(main())
