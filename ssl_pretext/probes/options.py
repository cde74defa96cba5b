"""The options of `evaluate` and `label_efficiency`."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypedDict

from ssl_pretext.probes.finetuning import FinetuneConfig
from ssl_pretext.probes.training import ProbeConfig, ProbeFactory

__all__ = ["EvaluateOptions"]


class EvaluateOptions(TypedDict, total=False):
    """The options that `evaluate` and `label_efficiency` share; all may be left out.

    Attributes:
        target: What the probe predicts: `"class"` (the default), `"labels"` (several per image), `"numbers"`, `"mask"`
            (a class per pixel) or `"map"` (a number per pixel, such as a depth, or several). For all but classes,
            `train` and `test` are pairs `(images, targets)`: labels are an array `(N, K)` of 0 and 1, numbers `(N,)` or
            `(N, K)`, masks `(N, H, W)`, maps `(N, H, W)` or `(N, K, H, W)`; labels, numbers and maps can also be a
            mapping from names to arrays `(N,)` or `(N, H, W)`, such as a DataFrame. Unknown targets are NaN; unknown
            classes, also of pixels, are -1.
        metrics: Names of metrics of the target to report; the first one decides tables and sentences unless another is
            asked for. By default `accuracy` and `balanced_accuracy` for classes, and all metrics for other targets.
        probe: Name of a probe from `list_probes()`, with options in brackets such as `"knn[k=5]"`, or a function from
            `(in_channels, num_outputs)` to a module.
        epochs: Passes over the labeled images for networks such as `"conv"`, by default 10, and 30 for `"finetune"`;
            other probes have none.
        seeds: The number of seeds, or the seeds themselves; 5 by default.
        pretraining: The images that the representations were trained on, as an `ImageStore`, a dataset or a loader, or
            as a list of `KnownImages`, the hashes that each run keeps of them. The report then says how many test
            images repeat them.
        controls: The controls to compare the representations with: some of `"untrained"` (the same network with random
            weights, in the version that is strongest on the training images), `"before"` (the same network with the
            published weights that its training started from, if there are any), `"pixels"`, `"source"` (the channels
            that the network sees), `"reduced"` (pixels averaged to the size of its feature maps) and `"histogram"` (of
            colors). True, the default, stands for all of them. `"joined"` adds a row for each network, its features
            joined with the histogram, to see what they add to it; only the linear and the nearest-neighbor probe take
            both together.
        unseen_classes: Whether test images may belong to classes without training images. No probe can predict these
            classes, so such images count as errors.
        training: Configuration of the training, for probes that are networks; a `FinetuneConfig` for `"finetune"`.
        cache: A folder for features and finished probes, so that an interrupted call can continue. An entry is used
            only for the same weights, images, settings and code.
        device: `"auto"` (the default), `"cpu"`, `"cuda"`, a numbered GPU such as `"cuda:1"`, or `"mps"`.
        precision: Precision in which frozen networks compute their features: `"32-true"` (the default), `"bf16-mixed"`,
            or `"auto"` for the faster one, which is found by timing a batch if a network and its untrained controls
            compute at least 6,400 images. The card says what was chosen, and these controls have the same.
        memory_format: Order of the values in memory while features are computed: `"contiguous"` (the default),
            `"channels_last"`, or `"auto"` for the faster one. Features then differ by rounding.
    """

    target: str
    metrics: Sequence[str] | None
    probe: str | ProbeFactory
    epochs: int | None
    seeds: int | Sequence[int]
    pretraining: Any
    controls: bool | Collection[str]
    unseen_classes: bool
    training: ProbeConfig | FinetuneConfig | None
    cache: str | Path | None
    device: str
    precision: str
    memory_format: str
