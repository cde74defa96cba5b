"""`evaluate`: how well small classifiers do on frozen features."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.budgets import LabelBudget
from ssl_pretext.probes.comparison import Comparison, Given
from ssl_pretext.probes.efficiency import LabelEfficiency
from ssl_pretext.probes.modules import ProbeFactory, ProbeTraining
from ssl_pretext.probes.results import ProbeReport
from ssl_pretext.processes import from_first

__all__ = ["evaluate", "label_efficiency"]


def evaluate(
    representations: Mapping[str, Given],
    train: Any,
    test: Any,
    *,
    probe: str | ProbeFactory = "conv",
    epochs: int | None = None,
    seeds: int | Sequence[int] = 5,
    label_fraction: float = 1.0,
    per_class: int | None = None,
    controls: bool | Collection[str] = True,
    unseen_classes: bool = False,
    training: ProbeTraining | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
) -> ProbeReport:
    """Trains a probe on each representation, once per seed, and tests it.

    A seed decides the probe's initialisation, the order of the images, which labels are used where not all are, and
    the weights of the untrained controls; it is the same for every representation, so that differences can be taken
    seed by seed. Test images choose nothing: not the setting of the linear probe, nor the epoch, which is the last.

    Features are computed once, all layers of a network in one pass over the images. Under `torchrun` the first process
    does it, and all get its report.

    Args:
        representations: Frozen features by name; a sequence stands for one network per seed, such as one pretrained
            from each, whose luck is then inside the interval.
        train: Labelled images: an `ImageStore`, a Dataset of `(image, label)`, or `(images, labels)`.
        test: The same, of the same classes.
        probe: A name of `list_probes()`, with options in brackets, or a function `(in_channels, num_classes)` to a
            module.
        epochs: Passes over the labelled images; the probe's own number if left out (conv: 10, linear: 100).
        seeds: How many seeds, or which ones.
        label_fraction: Share of each class's labels that is used, at least one image.
        per_class: Or this many images of each class.
        controls: What is measured beside, of `"untrained"` (the same network with fresh weights), `"pixels"`,
            `"source"` (the channels that the network sees), `"reduced"` (pixels averaged to the size of its maps) and
            `"histogram"` (of colours); True for all of them.
        unseen_classes: Allow test images of classes that have no training image, which no probe can name.
        training: How a probe that is a network is trained.
        cache: A folder where features and finished probes are kept, so that a call that was stopped goes on. An entry
            is used only for the same weights, images, settings and code.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Returns:
        The report: `table()`, `summary()`, `differences()`, `to_json()`, `plot()`.

    Raises:
        ArgumentError: Data or options are unusable; the message says which and why.

    Examples:
        >>> import torch
        >>> from ssl_pretext.probes import Pixels
        >>> data = (torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), [0, 1] * 4)
        >>> report = evaluate({"pixels": Pixels("rgb")}, data, data, epochs=1, seeds=2)
        >>> report.summary()[0]["representation"]
        'pixels'
    """
    comparison = Comparison(
        representations,
        train,
        test,
        probe=probe,
        epochs=epochs,
        seeds=seeds,
        controls=controls,
        unseen_classes=unseen_classes,
        training=training,
        cache=cache,
        device=device,
    )
    return from_first("evaluate", lambda: comparison.reports([LabelBudget(label_fraction, per_class)])[0])


def label_efficiency(
    representations: Mapping[str, Given],
    train: Any,
    test: Any,
    *,
    per_class: Sequence[int] = (1, 2, 5, 10, 20),
    probe: str | ProbeFactory = "linear",
    epochs: int | None = None,
    seeds: int | Sequence[int] = 5,
    controls: bool | Collection[str] = True,
    unseen_classes: bool = False,
    training: ProbeTraining | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
) -> LabelEfficiency:
    """`evaluate` with few labels and with more; a seed's few are among its more.

    Args:
        representations: As for `evaluate`, as all that is not named here.
        train: Labelled images, at least as many of each class as the largest budget.
        test: The same for all budgets.
        per_class: Labelled images of each class.
        probe: As for `evaluate`.
        epochs: As for `evaluate`.
        seeds: As for `evaluate`.
        controls: As for `evaluate`.
        unseen_classes: As for `evaluate`.
        training: As for `evaluate`.
        cache: As for `evaluate`.
        device: As for `evaluate`.

    Raises:
        ArgumentError: Data or options are unusable, or a class has too few images.

    Examples:
        >>> import torch
        >>> from ssl_pretext.probes import Pixels
        >>> data = (torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), [0, 1] * 4)
        >>> curve = label_efficiency({"pixels": Pixels("rgb")}, data, data, per_class=[1, 4], probe="knn", seeds=2)
        >>> list(curve.reports)
        [1, 4]
    """
    if not isinstance(per_class, Sequence) or not per_class or len(set(per_class)) != len(per_class):
        raise ArgumentError(f"label_efficiency needs at least one budget, each once; got per_class={per_class!r}")
    budgets = [LabelBudget(per_class=count) for count in sorted(per_class)]
    comparison = Comparison(
        representations,
        train,
        test,
        probe=probe,
        epochs=epochs,
        seeds=seeds,
        controls=controls,
        unseen_classes=unseen_classes,
        training=training,
        cache=cache,
        device=device,
    )
    reports = from_first("evaluate", lambda: comparison.reports(budgets))
    return LabelEfficiency(dict(zip(sorted(per_class), reports, strict=True)))
