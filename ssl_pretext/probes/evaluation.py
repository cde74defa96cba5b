"""`evaluate`: how well small classifiers do on frozen features."""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pretext.data import ImageStore, as_store
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.conv import create_probe
from ssl_pretext.probes.linear import LINEAR_CARD, train_linear
from ssl_pretext.probes.results import ProbeReport, untrained_name
from ssl_pretext.representations import Pixels, Representation
from ssl_pretext.tasks.checkpoint import library_version

__all__ = ["evaluate"]

LEARNING_RATE, WEIGHT_DECAY, BATCH_SIZE = 3e-4, 2e-5, 64
TEST_BATCH_SIZE = 256
CARD = {
    "optimizer": "AdamW",
    "learning_rate": LEARNING_RATE,
    "weight_decay": WEIGHT_DECAY,
    "batch_size": BATCH_SIZE,
    "selection": "last epoch",
}

ProbeFactory = Callable[[int, int], nn.Module]


def evaluate(
    representations: Mapping[str, Representation],
    train: Any,
    test: Any,
    *,
    probe: str | ProbeFactory = "conv",
    epochs: int = 10,
    seeds: int | Sequence[int] = 5,
    label_fraction: float = 1.0,
    untrained: bool = True,
    device: str = "auto",
) -> ProbeReport:
    """Trains a probe on each representation, once per seed, and tests it.

    A seed decides the probe's initialisation, the order of the images, which labels are used, and the weights of the
    untrained control; it is the same for every representation, so that differences can be taken seed by seed. The
    last epoch counts: test images choose nothing.

    Args:
        representations: Frozen features by name.
        train: Labelled images: an `ImageStore`, a Dataset of `(image, label)`, or `(images, labels)`.
        test: The same, of the same classes.
        probe: A name of `list_probes()`, or a function `(in_channels, num_classes)` to a module.
        epochs: Passes over the labelled images.
        seeds: How many seeds, or which ones.
        label_fraction: Share of each class's labels that is used, at least one image.
        untrained: Adds `"NAME (untrained)"` for each representation that has an untrained twin.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Returns:
        The report: `table()`, `summary()`, `differences()`, `to_json()`, `plot()`.

    Raises:
        ArgumentError: Data or options are unusable; the message says which and why.

    Examples:
        >>> images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
        >>> data = (images, [0, 1] * 4)
        >>> report = evaluate({"pixels": Pixels("rgb")}, data, data, epochs=1, seeds=2)
        >>> report.summary()[0]["representation"]
        'pixels'
    """
    train, test = as_store(train), as_store(test)
    chosen_seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    _check(representations, train, test, epochs, chosen_seeds, label_fraction)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    probe_name = probe if isinstance(probe, str) else getattr(probe, "__name__", "custom")
    runs: list[dict[str, Any]] = []
    controls = [name for name, representation in representations.items() if isinstance(representation, Pixels)]

    from tqdm import tqdm

    twins = [name for name, representation in representations.items() if untrained and representation.untrained]
    count = len(chosen_seeds) * (len(representations) + len(twins))
    with tqdm(total=count, desc=f"{probe_name} probes", unit="probe", disable=None) as bar:

        def run(name: str, features: tuple[Tensor, Tensor], seed: int) -> None:
            bar.set_postfix_str(name)
            kept = _label_subset(train.labels, label_fraction, seed)
            # On the device once, rather than batch by batch in every epoch.
            sides = (
                (features[0][kept].to(device), train.labels[kept].to(device)),
                (features[1].to(device), test.labels.to(device)),
            )
            classes = len(train.classes)
            if probe == "linear":
                history, setting = train_linear(*sides, classes=classes, epochs=epochs, seed=seed)
            else:
                history, setting = _train_probe(probe, *sides, classes=classes, epochs=epochs, seed=seed), {}
            runs.append({"representation": name, "probe": probe_name, "seed": seed, "history": history, **setting})
            bar.update()

        for name, representation in representations.items():
            features = _features(representation, train, test, device)
            for seed in chosen_seeds:
                run(name, features, seed)
            if untrained and representation.untrained is not None:
                controls.append(untrained_name(name))
                for seed in chosen_seeds:  # another initialisation each time
                    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                        twin = representation.untrained(seed)
                    run(controls[-1], _features(twin, train, test, device), seed)
    card = {
        "probe": probe_name,
        **(LINEAR_CARD if probe == "linear" else CARD),
        "loss": "cross-entropy",
        "epochs": epochs,
        "seeds": chosen_seeds,
        "label_fraction": label_fraction,
        "train": {"images": len(train), "sha256": train.sha256},
        "test": {"images": len(test), "sha256": test.sha256},
        "classes": len(train.classes),
        "image_size": train.image_size,
        "library": library_version(),
        "torch": version("torch"),
        "controls": controls,
        "representations": {name: one.describe for name, one in representations.items()},
    }
    return ProbeReport(runs, card)


def _features(
    representation: Representation, train: ImageStore, test: ImageStore, device: str
) -> tuple[Tensor, Tensor]:
    return representation.features(train, device=device), representation.features(test, device=device)


def _check(
    representations: Mapping[str, Representation],
    train: ImageStore,
    test: ImageStore,
    epochs: int,
    seeds: list[int],
    label_fraction: float,
) -> None:
    if not representations:
        raise ArgumentError("evaluate() got no representations")
    for name, representation in representations.items():
        if not isinstance(representation, Representation):
            raise ArgumentError(
                f"representation {name!r} is a {type(representation).__name__}; use task.representation() or Pixels()"
            )
        if untrained_name(name) in representations:
            raise ArgumentError(f"{untrained_name(name)!r} is what the control of {name!r} is called; rename one")
    for name, store in (("train", train), ("test", test)):
        if len(store) == 0:
            raise ArgumentError(f"evaluate() got no {name} images")
    if train.classes != test.classes:
        raise ArgumentError(f"train and test have other classes: {train.classes[:5]}... and {test.classes[:5]}...")
    if epochs < 1 or not seeds or len(set(seeds)) != len(seeds):
        raise ArgumentError(f"evaluate() needs epochs >= 1 and at least one seed, each once; got {epochs} and {seeds}")
    if not 0 < label_fraction <= 1:
        raise ArgumentError(f"label_fraction lies in (0, 1], got {label_fraction}")


def _label_subset(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Indices of a share of each class, at least one image of it."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    if fraction == 1:
        return torch.arange(len(labels))
    parts = [order[labels[order] == label] for label in labels.unique()]
    return torch.cat([part[: max(1, round(fraction * len(part)))] for part in parts]).sort().values


def _train_probe(
    probe: str | ProbeFactory,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    classes: int,
    epochs: int,
    seed: int,
) -> list[dict[str, float]]:
    features, labels = train
    count, device = len(labels), features.device
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        channels = features.shape[1]
        network = create_probe(probe, channels, classes) if isinstance(probe, str) else probe(channels, classes)
        network.to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        # Not the global generator: larger networks draw more from it, and the order must be theirs all the same.
        generator = torch.Generator().manual_seed(seed)
        history: list[dict[str, float]] = []
        for epoch in range(epochs):
            network.train()
            order = torch.randperm(count, generator=generator).to(device)
            sums = torch.zeros(2, device=device, dtype=torch.float64)
            # Nearly equal batches: a last one of a single image would leave BatchNorm without a variance.
            for batch in order.tensor_split(max(1, count // BATCH_SIZE)):
                logits = network(features[batch])
                loss = F.cross_entropy(logits, labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                sums += _score(logits.detach(), labels[batch])
            tested = _test(network, *test)
            (train_loss, train_accuracy), (test_loss, test_accuracy) = (sums / count).tolist(), tested
            history.append(
                {
                    "epoch": epoch + 1,
                    "train_loss": train_loss,
                    "train_accuracy": train_accuracy,
                    "test_loss": test_loss,
                    "test_accuracy": test_accuracy,
                }
            )
    return history


def _test(network: nn.Module, features: Tensor, labels: Tensor) -> list[float]:
    network.eval()
    sums = torch.zeros(2, device=features.device, dtype=torch.float64)
    with torch.inference_mode():
        for batch, truth in zip(features.split(TEST_BATCH_SIZE), labels.split(TEST_BATCH_SIZE), strict=True):
            sums += _score(network(batch), truth)
    return cast(list[float], (sums / len(labels)).tolist())


def _score(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed loss and number of hits."""
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([loss, (logits.argmax(dim=1) == labels).sum()]).double()
