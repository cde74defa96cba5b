"""Progress is shown to callers who have not set up logging, once, and to nobody who hides it."""

import logging
import subprocess
import sys

import pytest

from ssl_pretext.system.console import progress_on_screen

PROGRAM = """
import logging, sys
from ssl_pretext.system.console import progress_on_screen
log = logging.getLogger("ssl_pretext.training")
{setup}
with progress_on_screen():
    log.info("epoch 1 \\x1b[2J")
    log.warning("careful")
log.info("after")
print("result")
"""

RANK_1 = {"TORCHELASTIC_RUN_ID": "1", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("setup", "lines"),
    [
        ("", ["epoch 1 \\x1b[2J", "careful"]),
        ("logging.basicConfig(format='mine: %(message)s')", ["epoch 1 \\x1b[2J", "mine: careful"]),
        ("logging.basicConfig(level='INFO', format='%(levelname)s')", ["INFO", "WARNING", "INFO"]),
        ("logging.getLogger('ssl_pretext').setLevel('WARNING')", ["careful"]),
        (f"import os; os.environ.update({RANK_1})", ["careful"]),
    ],
)
def test_lines_appear_once(setup, lines):
    code = PROGRAM.replace("{setup}", setup)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "result\n"
    assert done.stderr.splitlines() == lines


def test_the_logger_is_as_before_after_an_error():
    logger = logging.getLogger("ssl_pretext")
    before = logger.level, logger.propagate, list(logger.handlers)
    with pytest.raises(KeyError), progress_on_screen():
        raise KeyError
    assert (logger.level, logger.propagate, logger.handlers) == before
