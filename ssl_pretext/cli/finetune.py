"""The command `ssl-pretext finetune`, which trains a network further on labels and measures what pretraining adds."""

import logging
import shlex
from pathlib import Path

from ssl_pretext.cli.files import write_options
from ssl_pretext.cli.judging import describe_labels, evaluation_options, load_labeled_images
from ssl_pretext.cli.networks import Network
from ssl_pretext.cli.options import Finetune
from ssl_pretext.cli.probe import run_pictures, write_results
from ssl_pretext.data import ImageStore
from ssl_pretext.encoders.layer_decay import layer_decay_groups
from ssl_pretext.export import finetune_classifier
from ssl_pretext.probes import EvaluateOptions, FinetuneConfig, ProbeReport, evaluate
from ssl_pretext.reporting.page import Section
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.system.processes import rank_info
from ssl_pretext.tasks import PretextTask
from ssl_pretext.training.run_page import describe_training

__all__ = ["run"]

log = logging.getLogger(__name__)

FINETUNED, FROZEN = "finetune", "linear"
CONTROLS = ["untrained", "before"]

ABOUT = (
    "The network was trained further on the labeled images (finetune), once per seed: from its pretrained weights, "
    "from random weights (untrained, which is training from scratch) and, if its pretraining started from published "
    "weights, from those (before). The linear probe is a classifier on the same networks without further "
    "training. Differences are paired by seed and test image; ± is half the width of a 95% interval, which covers the "
    "seeds and the choice of the labeled images and of the test images."
)


def run(options: Finetune) -> None:
    """Fine-tunes and tests the networks, prints the tables, and writes the results and one network for export.

    Raises:
        PretextError: The task or the images cannot be loaded, or an option is invalid.
    """
    training = FinetuneConfig(
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        batch_size=options.batch_size,
        layer_decay=options.layer_decay,
        patience=options.patience,
    )
    task = PretextTask.from_pretrained(options.run)
    if training.layer_decay != 1:  # raises an error before the slow work starts if the layers have no order
        layer_decay_groups(
            [task],
            layer_decay=training.layer_decay,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
        )
    out = options.out or options.run / "finetune"
    with exclusive_lock(out):
        network = Network(str(options.run), options.run, None, task.representation(), task)
        labels = describe_labels(options.per_class, options.num_labels)
        train, test, about = load_labeled_images(options, [network], out, labels)
        log.info("%s", about)
        reports = _reports(task.name, network, train, test, training, options, out)
        if rank_info().rank:
            return  # the first process writes the results
        answer = _answer(task.name, reports)
        log.info("\n%s", answer)
        title = f"Does pretraining help fine-tuning? {options.run} on {options.data}"
        lead = f"{describe_training(task)}. Judged on {about}."
        before = f"{task.name} (before fine-tuning)"
        pictures = [
            Section("Does fine-tuning add to the frozen features?", [answer]),
            *run_pictures(network, before, train, test, device=options.device),
        ]
        write_results(
            out, options.to_dict(), reports, title=title, lead=lead, compared=[f"{about}.", ABOUT], pictures=pictures
        )
        write_options(out / "finetune.yaml", options.settings())
        _write_network(task, train, test, training, options, out / "network")


def _reports(
    name: str,
    network: Network,
    train: ImageStore,
    test: ImageStore,
    training: FinetuneConfig,
    options: Finetune,
    out: Path,
) -> dict[str, ProbeReport]:
    """Returns the reports of the fine-tuned and of the frozen networks, after printing both."""
    own: dict[str, EvaluateOptions] = {FINETUNED: {"epochs": options.epochs, "training": training}, FROZEN: {}}
    reports = {}
    for probe, chosen in own.items():
        asked = evaluation_options(options, [network], out, probe=probe, controls=CONTROLS)
        asked.update(chosen)
        reports[probe] = evaluate(
            {name: network.representation},
            train,
            test,
            per_class=options.per_class,
            num_labels=options.num_labels,
            **asked,
        )
        log.info("\n%s probe\n\n%s", probe, reports[probe])
    return reports


def _answer(name: str, reports: dict[str, ProbeReport]) -> str:
    """Says whether training the network further is better than a linear classifier on its frozen features."""
    row = reports[FINETUNED].difference(name, name, of=reports[FROZEN])
    return f"{name}, fine-tuned: {row['words']}."


def _write_network(
    task: PretextTask, train: ImageStore, test: ImageStore, training: FinetuneConfig, options: Finetune, folder: Path
) -> None:
    log.info("\nfine-tuning on all %s labeled images for export", f"{len(train):,}")
    scores = finetune_classifier(
        task,
        train,
        test,
        folder,
        target=options.target,
        epochs=options.epochs,
        training=training,
        device=options.device,
    )
    found = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    quoted = shlex.quote(str(folder))
    log.info(
        "network: %s; on the test images: %s\nuse it: ssl-pretext export %s --to onnx --out FILE.onnx",
        folder,
        found,
        quoted,
    )
