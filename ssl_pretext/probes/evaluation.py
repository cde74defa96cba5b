"""`evaluate`: the same probe trained on several frozen representations, seed by seed, beside their controls."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ssl_pretext.data import ImageStore, as_store
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.conv import create_probe
from ssl_pretext.probes.results import ProbeReport
from ssl_pretext.representations import Pixels, Representation

__all__ = ["evaluate"]

LEARNING_RATE, WEIGHT_DECAY = 3e-4, 2e-5  # of AdamW, as the conv probe is documented
BATCH_SIZE = 64
EVAL_BATCH_SIZE = 256
RESIDENT_SHARE = 0.5  # of the free GPU memory that features may take; larger ones travel batch by batch

ProbeFactory = Callable[[int, int], nn.Module]
_Split = tuple[Tensor, Tensor]  # features (N, c, h, w), labels (N,)


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
    device: str | torch.device = "auto",
) -> ProbeReport:
    """Trains a probe on every representation and tests it after each epoch; nothing is chosen by the test images.

    A seed decides the probe's weights, the order of the images and the labels drawn, in the same way for every
    representation, so that their differences are paired. The caller's random state is left as it was.

    Args:
        representations: By the name that the report shows.
        train: An `ImageStore`, a `Dataset` of `(image, label)`, or `(images, labels)`.
        test: The same, with the same classes.
        probe: Name or spec of a registered probe, or a factory `(in_channels, num_classes) -> nn.Module`.
        epochs: Passes over the training images; the last one is the result.
        seeds: How many, from 0, or which.
        label_fraction: Share of the training images used, drawn per class, at least one of each.
        untrained: Adds the control `"<name> (untrained)"`, with fresh weights for each seed, where there is one.
        device: `"auto"` is CUDA where there is a GPU.

    Returns:
        The runs with their history, and the card: all that decides the numbers.

    Raises:
        ArgumentError: An argument is out of range, the classes differ, a split is empty, or a feature is not finite.
        UnknownNameError: There is no such probe.

    Examples:
        >>> images, labels = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8), torch.arange(8) % 2
        >>> report = evaluate({"pixels": Pixels("rgb")}, (images, labels), (images, labels), epochs=1, seeds=2)
        >>> [(run["representation"], run["seed"]) for run in report.runs]
        [('pixels', 0), ('pixels', 1)]
    """
    numbers = _seed_list(seeds)
    _check(representations, probe, epochs, label_fraction)
    place = _find_device(device)
    train, test = as_store(train), as_store(test)
    _check_stores(train, test)
    candidates = _with_controls(representations, untrained)
    runs: list[dict[str, Any]] = []
    shapes: dict[str, list[int]] = {}
    with tqdm(total=len(candidates) * len(numbers) * epochs, unit="epoch", disable=None) as bar:
        for name, (representation, control_of) in candidates.items():
            splits: tuple[_Split, _Split] | None = None
            for seed in numbers:
                bar.set_description(f"{name}, seed {seed}")
                if splits is None or control_of is not None:  # a control is another network for each seed
                    splits = None  # frees the last ones before the next are made
                    splits = _encode(representation, control_of, seed, train, test, place)
                    shapes[name] = list(splits[0][0].shape[1:])
                history = _train(splits, probe, len(train.classes), epochs, seed, label_fraction, place, bar)
                runs.append({"representation": name, "probe": _probe_name(probe), "seed": seed, "history": history})
    card = {
        "probe": _probe_name(probe),
        "optimizer": "AdamW",
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "batch_size": BATCH_SIZE,
        "epochs": epochs,
        "seeds": numbers,
        "label_fraction": label_fraction,
        "num_classes": len(train.classes),
        "train": {"images": len(train), "sha256": train.sha256},
        "test": {"images": len(test), "sha256": test.sha256},
        "versions": {"torch": str(torch.__version__), "ssl_pretext": _library_version()},
        "representations": {
            name: {
                "control": control_of is not None or isinstance(representation, Pixels),
                "control_of": control_of,
                "feature_shape": shapes[name],
                "description": dict(representation.describe or {}),
            }
            for name, (representation, control_of) in candidates.items()
        },
    }
    return ProbeReport(runs=runs, card=card)


def _train(
    splits: tuple[_Split, _Split],
    probe: str | ProbeFactory,
    num_classes: int,
    epochs: int,
    seed: int,
    label_fraction: float,
    device: torch.device,
    bar: "tqdm[Any]",
) -> list[dict[str, float]]:
    """Trains one probe; returns its history."""
    (features, labels), test = splits
    draw = torch.Generator().manual_seed(seed)  # on the CPU: the same order on every machine
    chosen = _draw_labels(labels, label_fraction, draw)
    history = []
    with _seeded(seed, device):
        channels = features.shape[1]
        model = create_probe(probe, channels, num_classes) if isinstance(probe, str) else probe(channels, num_classes)
        model.to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        for epoch in range(1, epochs + 1):
            model.train()
            order = chosen[torch.randperm(len(chosen), generator=draw)].to(features.device)
            totals = torch.zeros(2, device=device)  # read once per epoch, so that no step waits for the GPU
            # Nearly equal parts: a last batch of one or two images would spoil BatchNorm's statistics.
            for batch in order.tensor_split(max(1, len(order) // BATCH_SIZE)):
                loss, logits, target = _step(model, features[batch], labels[batch], device)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                totals += _totals(loss.detach(), logits.detach(), target)
            train_loss, train_accuracy = (totals / len(order)).tolist()
            test_loss, test_accuracy = _test(model, test, device)
            row = {"epoch": epoch, "train_loss": train_loss, "train_accuracy": train_accuracy}
            history.append({**row, "test_loss": test_loss, "test_accuracy": test_accuracy})
            bar.update()
    return history


def _test(model: nn.Module, split: _Split, device: torch.device) -> tuple[float, float]:
    """Mean loss and accuracy over a split."""
    features, labels = split
    model.eval()
    totals = torch.zeros(2, device=device)
    with torch.inference_mode():
        for start in range(0, len(labels), EVAL_BATCH_SIZE):
            part = slice(start, start + EVAL_BATCH_SIZE)
            totals += _totals(*_step(model, features[part], labels[part], device))
    loss, accuracy = (totals / len(labels)).tolist()
    return loss, accuracy


def _step(model: nn.Module, x: Tensor, y: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    target = y.to(device, non_blocking=True)
    logits = model(x.to(device, non_blocking=True))
    return F.cross_entropy(logits, target), logits, target


def _totals(loss: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """Summed loss and number of hits of a batch."""
    return torch.stack([loss * len(target), (logits.argmax(1) == target).sum().to(loss.dtype)])


def _draw_labels(labels: Tensor, fraction: float, draw: torch.Generator) -> Tensor:
    """Indices of a share of each class, at least one image of it."""
    if fraction == 1:
        return torch.arange(len(labels))
    parts = []
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero().flatten().cpu()
        count = max(1, round(fraction * len(members)))
        parts.append(members[torch.randperm(len(members), generator=draw)[:count]])
    return torch.cat(parts)


def _encode(
    representation: Representation,
    control_of: str | None,
    seed: int,
    train: ImageStore,
    test: ImageStore,
    device: torch.device,
) -> tuple[_Split, _Split]:
    """Features and labels of both splits, on the device where they fit."""
    with _seeded(seed, device):
        if control_of is not None and representation.untrained is not None:
            representation = representation.untrained(seed)
        features = [representation.features(store, device=device) for store in (train, test)]
    home = torch.device("cpu")
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        home = device if sum(part.nbytes for part in features) < RESIDENT_SHARE * free else home
    return (
        (features[0].to(home), train.labels.to(home)),
        (features[1].to(home), test.labels.to(home)),
    )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds the CPU and the device within; leaves every global generator as it was."""
    # Not torch.manual_seed: it also reseeds the GPUs that are not forked here, for good.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _with_controls(
    representations: Mapping[str, Representation], untrained: bool
) -> dict[str, tuple[Representation, str | None]]:
    """Every representation, each followed by its control, as `(representation, what it is the control of)`."""
    found: dict[str, tuple[Representation, str | None]] = {}
    for name, representation in representations.items():
        found[name] = (representation, None)
        if untrained and representation.untrained is not None:
            control = f"{name} (untrained)"
            if control in representations:
                raise ArgumentError(
                    f"evaluate adds the control {control!r} itself; rename yours or set untrained=False"
                )
            found[control] = (representation, name)
    return found


def _seed_list(seeds: int | Sequence[int]) -> list[int]:
    numbers = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not numbers or len(set(numbers)) != len(numbers):
        raise ArgumentError(f"evaluate takes seeds >= 1 or a sequence of distinct seeds, got {seeds!r}")
    return numbers


def _check(
    representations: Mapping[str, Representation], probe: str | ProbeFactory, epochs: int, label_fraction: float
) -> None:
    if not isinstance(representations, Mapping) or not representations:
        raise ArgumentError(f"evaluate takes a mapping of names to representations, got {representations!r}")
    for name, representation in representations.items():
        if not isinstance(representation, Representation):
            raise ArgumentError(
                f"evaluate takes Representations, got {type(representation).__name__} for {name!r}; "
                "of a task, pass task.representation()"
            )
    if isinstance(probe, nn.Module) or not (callable(probe) or isinstance(probe, str)):
        raise ArgumentError(
            f"evaluate's probe is a name or a factory (in_channels, num_classes) -> nn.Module, for each run is given "
            f"a new one; got {type(probe).__name__}"
        )
    if epochs < 1:
        raise ArgumentError(f"evaluate takes epochs >= 1, got {epochs}")
    if not 0 < label_fraction <= 1:
        raise ArgumentError(f"evaluate takes a label_fraction in (0, 1], got {label_fraction}")


def _check_stores(train: ImageStore, test: ImageStore) -> None:
    for split, store in (("train", train), ("test", test)):
        if len(store) == 0:
            raise ArgumentError(f"evaluate's {split} split has no images")
    if list(train.classes) != list(test.classes):
        raise ArgumentError(
            f"evaluate needs the same classes in train and test, got {_shortened(train.classes)} "
            f"and {_shortened(test.classes)}"
        )


def _shortened(classes: Sequence[str]) -> str:
    return f"{len(classes)} ({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''})"


def _probe_name(probe: str | ProbeFactory) -> str:
    return probe if isinstance(probe, str) else str(getattr(probe, "__qualname__", type(probe).__qualname__))


def _find_device(device: str | torch.device) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def _library_version() -> str:
    try:
        return metadata.version("ssl-pretext")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"
