"""The command `ssl-pretext push`, which uploads a pretrained task with its model card to the Hugging Face hub."""

import logging
import re
from typing import Any

from ssl_pretext.cli.model_cards import newest_report
from ssl_pretext.cli.options import Push
from ssl_pretext.errors import ArgumentError, StorageError
from ssl_pretext.tasks import PretextTask

__all__ = ["run"]

log = logging.getLogger(__name__)


def run(options: Push) -> None:
    """Uploads the task of a run; the card shows the scores of the newest probe if there are any.

    Raises:
        PretextError: The task cannot be loaded, or the name of the repository is not well-formed.
        StorageError: The hub cannot be reached, or refuses the upload.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", options.repository):
        raise ArgumentError(f"the repository must be written user/name, got {options.repository!r}")
    task = PretextTask.from_pretrained(options.run)
    card: dict[str, Any] = {"license": options.license, "place": options.repository}
    if options.datasets:
        card["datasets"] = [name.strip() for name in options.datasets.split(",")]
    if report := newest_report(options.run):
        card["report"] = report
        log.info("the model card shows the scores of the newest probe")
    try:
        task.push_to_hub(options.repository, private=options.private, model_card_kwargs=card)
    # The hub's client passes on the errors of its HTTP library, which is another one from version to version.
    except Exception as error:
        raise StorageError(
            f"cannot push to {options.repository}: {error}. Check the connection, and log in with 'hf auth login'"
        ) from error
    log.info("pushed: https://huggingface.co/%s", options.repository)
