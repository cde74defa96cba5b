"""Small images, networks and reports that the tests of representations, probes and controls share."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.probes import ProbeConfig, ProbeReport, evaluate
from ssl_pretext.probes.outcome import pack_scores
from ssl_pretext.representations.base import Backbone, Pixels, Representation
from ssl_pretext.representations.cache import cached_features
from ssl_pretext.representations.extraction import extract_features

PIXELS = {"pixels": Pixels("rgb")}


def two_classes(count: int = 160, *, seed: int = 0, shuffled: bool = False, size: int = 4) -> tuple[Tensor, Tensor]:
    """Images of dark and of bright noise with their labels, which say nothing if they are shuffled."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 120, (count, 3, size, size), generator=draw)
    images = (noise + 120 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return images, labels[torch.randperm(count, generator=draw)] if shuffled else labels


def noise(labels: list[int], seed: int = 0) -> sp.ImageStore:
    """Images of noise with given labels of three classes."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (len(labels), 3, 8, 8), generator=draw, dtype=torch.uint8)
    return sp.ImageStore.from_arrays(images, labels, classes=["a", "b", "c"])


def random_store(count: int = 6, size: int = 16, seed: int = 0) -> sp.ImageStore:
    """Images of noise of two classes."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=draw, dtype=torch.uint8)
    return sp.ImageStore.from_arrays(pixels, [i % 2 for i in range(count)])


def photo_patches(split: str, classes: int = 4, per_class: int = 24) -> sp.ImageStore:
    """Patches of some of the sample photos, at 16 pixels."""
    store = sp.sample_photos(split, image_size=16)
    chosen = [(store.labels == label).nonzero().flatten()[:per_class] for label in range(classes)]
    images = store.images(torch.cat(chosen))
    return sp.ImageStore.from_arrays(images, store.labels[torch.cat(chosen)])


def blobs(
    count: int, *, classes: int = 4, features: int = 12, seed: int = 0, spread: float = 1.5
) -> tuple[Tensor, Tensor]:
    """Feature maps `(count, features, 1, 1)` that are normally distributed around a center of each class, and labels.

    The seed changes the points and not the centers.
    """
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, features, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    points = centers[labels] + spread * torch.randn(count, features, generator=generator)
    return points[:, :, None, None], labels


def small_linear(in_channels: int, num_classes: int) -> nn.Module:
    """A probe that is a linear layer on averaged features."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))


def backbone_of(network: nn.Module, untrained: Callable[[int], Backbone] | None = None) -> Backbone:
    return Backbone(
        lambda images, layers: {layer: network(images.float() / 255) for layer in layers},
        module=network,
        untrained=untrained,
    )


def small_network(seed: int = 7) -> Representation:
    """A small network whose untrained twin draws from the global generator, as careless code does."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    network = nn.Conv2d(3, 4, 2, stride=2)
    torch.set_rng_state(state)

    def untrained(twin_seed: int) -> Backbone:
        torch.manual_seed(100 + twin_seed)
        return backbone_of(nn.Conv2d(3, 4, 2, stride=2))

    return backbone_of(network, untrained).representation(name="net")


def small_task() -> sp.PretextTask:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sp.Colorization("timm/resnet10t[layer=layer2]", losses={"l1": 1.0}).eval()


def features_of(representation: Representation, store: sp.ImageStore, **options: object) -> Tensor:
    """The features of all images of a store; with `cache=`, they are read from the cache or stored in it."""
    if "cache" in options:
        options = {"device": "cpu", "sha256": store.sha256} | options
        found = cached_features([representation], store, **options)
    else:
        found = extract_features([representation], store, **options)
    return representation.combine([found[part.backbone, part.layer] for part in representation.parts])


class BatchRecorder(nn.Module):
    """A probe that records the numbers of the images that it is trained on, which are their first feature."""

    def __init__(self, in_channels: int, num_classes: int, batches: list[list[int]]) -> None:
        super().__init__()
        self.linear, self.batches = small_linear(in_channels, num_classes), batches

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            self.batches.append(features[:, 0, 0, 0].long().tolist())
        return self.linear(features)


def recorded_batches(
    channels: dict[str, int], *, count: int = 150, **options: object
) -> tuple[ProbeReport, list[list[int]]]:
    """Trains a probe on numbered images, of which every third has label 1.

    Args:
        channels: The representations by name, with their numbers of channels.
        count: The number of images.
        options: Options of `evaluate`.

    Returns:
        The report, and the numbers of the images in each batch, in the order of training.
    """
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()
    labels = (torch.arange(count) % 3 == 0).long()
    representations = {
        name: Representation(name, lambda x, n=number: x.float()[:, :1].expand(-1, n, -1, -1))
        for name, number in channels.items()
    }
    batches: list[list[int]] = []
    data = (images, labels)
    report = evaluate(
        representations,
        data,
        data,
        probe=lambda i, n: BatchRecorder(i, n, batches),
        training=ProbeConfig(standardize=False),
        epochs=1,
        controls=False,
        **options,
    )
    return report, batches


def made_up_report(
    accuracies: Mapping[str, Sequence[float]], twins: Mapping[str, Sequence[str]], images: int = 1_000
) -> ProbeReport:
    """A report whose hits are the first test images, as many as the accuracies say.

    Args:
        accuracies: An accuracy per seed, by the name of the representation; each seed has another network.
        twins: The names of the untrained twins, by the name of the representation.
        images: Number of test images.
    """
    seeds = list(range(len(next(iter(accuracies.values())))))
    card = {
        "probe": "linear",
        "target": "class",
        "metrics": ["accuracy"],
        "unlabeled": {"train": 0, "test": 0},
        "largest_class": 0.1,
        "seeds": seeds,
        "label_sets": "disjoint",
        "classes": 10,
        "guessed": 0.1,
        "predictable": 1.0,
        "seen": 0,
        "repeated": 0,
        "train": {"images": 100},
        "test": {"images": images},
        "controls": [name for names in twins.values() for name in names],
        "against": {name: {"untrained": twin} for name, (twin,) in twins.items()},
        "representations": {name: [{"networks": [name, seed]} for seed in seeds] for name in accuracies},
    }
    runs = [
        {
            "representation": name,
            "probe": "linear",
            "seed": seed,
            "labels": 100,
            "history": [{"epoch": 1, "test_accuracy": accuracy, "test_loss": 1.0}],
            "scores": {"accuracy": pack_scores(torch.arange(images) < images * accuracy)},
        }
        for name, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    return ProbeReport(runs, card)
