"""The log estimates the time that is left."""

import logging
import re

from training_runs import noise_store, small_task

import ssl_pretext as sp


def test_the_log_estimates_the_time_that_is_left(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="ssl_pretext"):
        sp.fit(small_task(), noise_store(), sp.FitConfig(out=tmp_path, epochs=3, batch_size=8, device="cpu"))
    found = [message for message in caplog.messages if "steps left" in message]
    assert len(found) == 1
    assert re.fullmatch(r"4 steps left at \d+\.\d\d s each, about \d+ s; \d+\.\d GiB of memory used so far", found[0])
