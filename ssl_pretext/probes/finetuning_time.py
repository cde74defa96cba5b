"""How long the networks that are still to be fine-tuned will take, from the first one."""

import logging

from ssl_pretext.system.console import describe_duration

__all__ = ["FinetuningTime"]

LEAST = 10.0  # seconds; nothing is said about shorter times
READING = 0.5  # seconds; what takes less may have been in the cache

log = logging.getLogger(__name__)


class FinetuningTime:
    """Logs how long fine-tuning will take when the first network is trained, whose time shows it.

    Args:
        labels: Sum of the numbers of labels on which all networks are trained.
    """

    def __init__(self, labels: int) -> None:
        self._left, self._logged = labels, False

    def add(self, labels: int, seconds: float) -> None:
        """Takes note of a network that was trained, or read from the cache in no time."""
        self._left -= labels
        left = seconds / labels * self._left
        if seconds >= READING and not self._logged:
            self._logged = True
            if left >= LEAST:
                text = describe_duration(seconds), describe_duration(left)
                log.info("a network was fine-tuned in %s; about %s are left for the others", *text)
