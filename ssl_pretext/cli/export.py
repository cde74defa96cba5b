"""The command `ssl-pretext export`, which converts an encoder or a fine-tuned network for use without this library."""

import logging

from ssl_pretext.cli.options import Export
from ssl_pretext.export import export_network, is_classifier, load_classifier
from ssl_pretext.tasks import PretextTask

__all__ = ["run"]

log = logging.getLogger(__name__)

NETWORK_FOLDER = "network"  # where `finetune` writes its network


def run(options: Export) -> None:
    """Exports the encoder of a run, or a fine-tuned network with its classifier.

    Raises:
        PretextError: The network cannot be loaded, or cannot be exported to the format.
    """
    folders = [folder for folder in (options.run, options.run / NETWORK_FOLDER) if is_classifier(folder)]
    task, classifier = load_classifier(folders[0]) if folders else (PretextTask.from_pretrained(options.run), None)
    for library in ("onnxscript", "onnx_ir"):  # they log each step of their optimization
        logging.getLogger(library).setLevel(logging.WARNING)
    export_network(task, options.out, to=options.to, classifier=classifier)
    what = "encoder" if classifier is None else f"network with {len(classifier.names)} outputs"
    log.info("exported: %s (%s of %s)", options.out, what, options.run)
