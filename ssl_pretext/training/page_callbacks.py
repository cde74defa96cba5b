"""Callbacks of Lightning that write the page of a run, apart from it: other commands show runs without Lightning."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from ssl_pretext.data import ImageStore
from ssl_pretext.reporting.page import Section
from ssl_pretext.system.files import write_text
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.run_page import PAGE, run_page

__all__ = ["PagePart", "RunPage"]


class PagePart(Checkpoint):
    """A callback of Lightning with sections for the page of the run, such as `OnlineProbe`.

    It counts as a checkpoint, because Lightning calls these last, in their order: after those that save an epoch, and
    before `RunPage`.
    """

    @abstractmethod
    def sections(self) -> list[Section]:
        """Returns the sections after the last epoch."""


class RunPage(Checkpoint):
    """Writes the page after each epoch.

    It counts as a checkpoint, because Lightning calls these after the hooks of the module, which adds the losses of the
    epoch to its history.

    Args:
        examples: Images whose predictions are shown.
        num_images: Number of training images, or None if it is unknown.
        config: Configuration of the run.
        parts: Other callbacks of the run with sections.
    """

    def __init__(
        self, examples: ImageStore, num_images: int | None, config: FitConfig, parts: Sequence[PagePart] = ()
    ) -> None:
        self.examples, self.num_images, self.config, self.parts = examples, num_images, config, parts

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            page = run_page(
                module.task,
                module.history,
                self.config,
                examples=self.examples,
                num_images=self.num_images,
                parts=[section for part in self.parts for section in part.sections()],
            )
            write_text(Path(self.config.out) / PAGE, page)
