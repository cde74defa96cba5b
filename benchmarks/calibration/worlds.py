"""Worlds: data of which the truth is known, drawn anew again and again, as `evaluate` takes them.

In most worlds two representations `a` and `b` are noisy views of the same features, drawn in the same way. So they are
equally good, and each claim of a difference between them is false. With more noise in one of them there is a true
difference, whose size is the mean over all worlds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.probes import ProbeConfig
from ssl_pretext.representations import Backbone, extract_features, imagenet_reference

__all__ = ["Pool", "Row", "photo_features", "rows"]

TEST_IMAGES = 1_000
A, B = "a", "b"


@dataclass(frozen=True)
class Pool:
    """Features to draw worlds from.

    Attributes:
        features: Features `(N, F)` of unit variance. None stands for normally distributed features around a random
            center of each class, of which each world draws new ones.
        labels: Labels `(N,)`.
    """

    features: Tensor | None = None
    labels: Tensor | None = None


@dataclass(frozen=True)
class Row:
    """A row of the table: how worlds are drawn, and how two representations are compared in each of them.

    Attributes:
        name: Name of the row.
        claims: Function from a pool and the number of a world to the differences between representations of that world,
            each with its interval.
        worlds: Number of worlds.
        real: Whether the features are those of photographs.
        different: Whether there is a true difference.
    """

    name: str
    claims: Callable[[Pool, int], list[dict[str, Any]]]
    worlds: int
    real: bool = False
    different: bool = False


def labeled_and_test(
    pool: Pool,
    world: int,
    *,
    classes: int = 10,
    labels: int,
    features: int = 32,
    noise: tuple[float, float],
    test: int = TEST_IMAGES,
) -> tuple[Any, Any]:
    """Draws training and test data whose channels are the features of `a` followed by those of `b`."""
    draw = torch.Generator().manual_seed(world)
    if pool.features is None or pool.labels is None:
        per_class = labels + test // classes
        # The same classes in every world: otherwise the true difference would be another one in each of them.
        centers = torch.randn(classes, features, generator=torch.Generator().manual_seed(0))
        names = torch.arange(classes).repeat_interleave(per_class)
        values = centers[names] + torch.randn(len(names), features, generator=draw)
    else:
        names, values = pool.labels, pool.features
    views = [values + scale * torch.randn(values.shape, generator=draw) for scale in noise]
    both = torch.cat(views, dim=1)[:, :, None, None]
    known, unknown = [], []
    for label in range(classes):
        order = (names == label).nonzero().flatten()
        order = order[torch.randperm(len(order), generator=draw)]
        known.append(order[:labels])
        unknown.append(order[labels : labels + test // classes])
    train, held_out = torch.cat(known), torch.cat(unknown)
    return (both[train], names[train]), (both[held_out], names[held_out])


def two_views(
    pool: Pool,
    world: int,
    *,
    probe: str,
    classes: int = 10,
    labels: int = 20,
    features: int = 32,
    noise: tuple[float, float] = (1.5, 1.5),
    test: int = TEST_IMAGES,
    maps: int = 1,
    options: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Compares two views by a probe; with `maps`, the features are spread over maps of this height and width."""
    train, held_out = labeled_and_test(
        pool, world, classes=classes, labels=labels, features=features, noise=noise, test=test
    )
    half = train[0].shape[1] // 2

    def view(first: int) -> sp.Representation:
        def features_of(images: Tensor) -> Tensor:
            chosen = images[:, first : first + half].float()
            return chosen.reshape(len(images), -1, maps, maps)

        return sp.Representation("view", features_of)

    report = sp.evaluate(
        {A: view(0), B: view(half)}, train, held_out, probe=probe, controls=False, **(dict(options or {}))
    )
    return [compared(report, A, B)]


def two_views_of_targets(
    pool: Pool,
    world: int,
    *,
    target: str,
    probe: str,
    images: int,
    features: int = 24,
    noise: tuple[float, float] = (1.5, 1.5),
    test: int = 500,
    options: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Compares two views of features from which labels, numbers, masks or maps follow, up to noise of their own.

    Labels and numbers belong to an image. Masks have a class, and maps three numbers, for each of 8×8 positions.
    """
    draw = torch.Generator().manual_seed(world)
    side = 8 if target in ("mask", "map") else 1
    count = images + test
    # Images differ as a whole, too, so that the pixels of a mask or a map are not independent.
    values = torch.randn(count, features, side, side, generator=draw) + torch.randn(
        count, features, 1, 1, generator=draw
    )
    # The same relation in every world, as the centers of classes.
    weights = torch.randn(3, features, generator=torch.Generator().manual_seed(0)) / features**0.5
    scores = torch.einsum("kf,nfhw->nkhw", weights, values) + torch.randn(count, 3, side, side, generator=draw)
    targets = {
        "labels": (scores.flatten(1) > 0.5).double(),
        "numbers": scores.flatten(1).double(),
        "mask": scores.argmax(dim=1),
        "map": scores,
    }[target]
    both = torch.cat([values + scale * torch.randn(values.shape, generator=draw) for scale in noise], dim=1)
    views = {name: _channels_view(start, features) for name, start in ((A, 0), (B, features))}
    report = sp.evaluate(
        views,
        (both[:images], targets[:images]),
        (both[images:], targets[images:]),
        target=target,
        probe=probe,
        controls=False,
        **(dict(options or {})),
    )
    return [compared(report, A, B)]


def _channels_view(start: int, count: int) -> sp.Representation:
    return sp.Representation("view", lambda images: images[:, start : start + count].float())


def compared(report: sp.ProbeReport, name: str, reference: str) -> dict[str, Any]:
    """The difference by the report, and half the width of the interval of Student's t over the seeds alone."""
    pairs = zip(report.values(name), report.values(reference), strict=True)
    mean, half = sp.probes.mean_interval([first - second for first, second in pairs])
    row = report.difference(name, reference)
    alone = half is not None and abs(mean) > max(half, 1e-9)  # 1e-9: equal but for rounding
    return {key: row[key] for key in ("mean", "ci95", "significant")} | {"seeds_alone": half, "claimed_alone": alone}


# Networks


def random_network(seed: int, channels: int, width: int) -> nn.Module:
    """A random layer, of which some draws are better than others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU())


def backbone_of(module: nn.Module, untrained: Callable[[int], Backbone] | None = None) -> Backbone:
    """A backbone whose layers all give the output of a network."""
    return Backbone(
        lambda images, layers: {layer: module(images) for layer in layers}, module=module, untrained=untrained
    )


def untrained_draws(pool: Pool, world: int, *, seeds: int, width: int = 12) -> list[dict[str, Any]]:
    """Compares one network, drawn like the others, with its untrained control; pretraining did nothing."""
    train, held_out = labeled_and_test(pool, world, labels=100, noise=(0.5, 0.5))
    channels = train[0].shape[1]

    def backbone(seed: int) -> Backbone:
        return backbone_of(random_network(seed, channels, width), twin)

    def twin(seed: int) -> Backbone:
        return backbone(1_000 * world + seed)

    report = sp.evaluate(
        {A: backbone(1_000 * world + 999).representation()},
        train,
        held_out,
        probe="knn",
        seeds=seeds,
        controls=["untrained"],
    )
    return [compared(report, A, f"{A} (untrained)")]


def several_pretrainings(pool: Pool, world: int, *, rows: int = 8, seeds: int = 3) -> list[dict[str, Any]]:
    """Compares tasks of a few pretrainings with their untrained controls, as a table does: with moderated spreads."""
    train, held_out = labeled_and_test(pool, world, labels=60, noise=(0.5, 0.5))
    channels = train[0].shape[1]

    def representation(number: int, seed: int) -> sp.Representation:
        def backbone(draw: int) -> Backbone:
            return backbone_of(random_network(draw, channels, 12), twin)

        def twin(seed: int) -> Backbone:
            return backbone(10_000 * world + 100 * number + 50 + seed)

        return backbone(10_000 * world + 100 * number + seed).representation()

    tasks = {f"task {i}": [representation(i, seed) for seed in range(seeds)] for i in range(rows)}
    report = sp.evaluate(tasks, train, held_out, probe="knn", per_class=20, seeds=seeds, controls=["untrained"])
    found = {row["representation"]: row for row in report.against_controls()}
    return [
        compared(report, name, f"{name} (untrained)")
        | {key: found[name][key] for key in ("mean", "ci95", "significant")}
        for name in tasks
    ]


def fine_tuning(pool: Pool, world: int, *, seeds: int = 5) -> list[dict[str, Any]]:
    """Trains two networks as a whole, from starting weights that are drawn alike, once per seed."""
    train, held_out = labeled_and_test(pool, world, classes=5, labels=200, noise=(1.5, 1.5))

    def network(first: bool, channels: int, classes: int) -> nn.Module:
        if not first:
            torch.rand(1)  # so that the weights of the second network differ from those of the first
        return nn.Sequential(nn.Flatten(), nn.Linear(channels, 32), nn.ReLU(), nn.Linear(32, classes))

    whole = {A: sp.Representation("image", lambda images: images.float())}
    first, second = (
        sp.evaluate(
            whole,
            train,
            held_out,
            probe=partial(network, is_first),
            training=ProbeConfig(learning_rate=3e-3, batch_size=32),
            epochs=12,
            per_class=20,
            seeds=seeds,
            controls=False,
        )
        for is_first in (True, False)
    )
    both = sp.ProbeReport(
        [*first.runs, *({**run, "representation": B} for run in second.runs)],
        first.card | {"representations": {A: first.card["representations"][A], B: second.card["representations"][A]}},
    )
    return [compared(both, A, B)]


def further_training(pool: Pool, world: int, *, seeds: int = 5) -> list[dict[str, Any]]:
    """Fine-tunes two kinds of networks that are drawn alike, another one for each seed."""
    train, held_out = labeled_and_test(pool, world, classes=5, labels=200, noise=(1.5, 1.5), test=500)
    channels = train[0].shape[1]

    def network(number: int) -> sp.Representation:
        return backbone_of(random_network(number, channels, 32)).representation()

    report = sp.evaluate(
        {name: [network(100 * world + 10 * kind + seed) for seed in range(seeds)] for kind, name in enumerate((A, B))},
        train,
        held_out,
        probe="finetune",
        epochs=10,
        per_class=20,
        seeds=seeds,
        controls=False,
    )
    return [compared(report, A, B)]


def untrained_cnns(pool: Pool, world: int, *, kinds: int = 12, seeds: int = 5, folder: Path) -> list[dict[str, Any]]:
    """Compares all pairs of kinds of small untrained CNNs on photographs, each drawn anew for each seed.

    All kinds are the same, so no pair truly differs.
    """
    store = sp.ImageStore.from_folder(folder, image_size=32)
    draw = torch.Generator().manual_seed(world)
    known, unknown = [], []
    for label in store.labels.unique():
        order = (store.labels == label).nonzero().flatten()
        order = order[torch.randperm(len(order), generator=draw)]
        known.append(order[:20])
        unknown.append(order[20:120])

    def cnn(seed: int) -> sp.Representation:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first, second = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        network = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        return sp.representations.Concatenated([sp.FrozenNetwork(network).representation()], size=1)

    report = sp.evaluate(
        {str(kind): [cnn(1_000 * world + 10 * kind + seed) for seed in range(seeds)] for kind in range(kinds)},
        store.subset(torch.cat(known).tolist()),
        store.subset(torch.cat(unknown).tolist()),
        probe="linear",
        seeds=seeds,
        controls=False,
    )
    return [compared(report, str(kind), str(other)) for kind in range(kinds) for other in range(kind)]


def photo_features(folder: Path) -> Pool:
    """Features of photographs in class folders, by a network that was trained with ImageNet's labels.

    They are reduced to 64 random directions of unit variance.
    """
    store = sp.ImageStore.from_folder(folder, image_size=64)
    reference = imagenet_reference(image_size=64)
    found = extract_features([reference], store, reduce=lambda maps: maps.mean(dim=(2, 3), keepdim=True))
    values = reference.combine_parts(found).flatten(1)
    draw = torch.Generator().manual_seed(0)
    values = (values - values.mean(dim=0)) @ torch.randn(values.shape[1], 64, generator=draw)
    return Pool(values / values.std(dim=0), store.labels)


def rows(folder: Path | None, worlds: int) -> list[Row]:
    """The rows of the table; those on photographs only if there is a folder of them.

    Args:
        folder: Folder of photographs in class folders.
        worlds: Number of worlds of a row whose probe is fast.
    """

    def views(name: str, probe: str, *, real: bool = False, share: float = 1.0, **options: Any) -> Row:
        noise = options.get("noise", (0.0, 0.0))
        count = max(1, round(share * worlds))
        return Row(name, partial(two_views, probe=probe, **options), count, real, different=noise[0] != noise[1])

    found = [
        views("all 20 labels per class, linear", "linear"),
        views("all 8 labels per class, five classes, linear", "linear", classes=5, labels=8),
        views("18 of 20 labels per class, linear", "linear", options={"per_class": 18}),
        views("10 of 20 labels per class, linear", "linear", options={"per_class": 10}),
        views("10 of 200 labels per class, linear", "linear", labels=200, options={"per_class": 10}),
        views("10 of 20 labels per class, linear, 3 seeds", "linear", options={"per_class": 10, "seeds": 3}),
        views("all 20 labels per class, knn", "knn"),
        views("10 of 200 labels per class, knn", "knn", labels=200, options={"per_class": 10}),
        views(
            "all 100 labels per class, two classes, conv", "conv", classes=2, labels=100, maps=2, test=400,
            noise=(4.0, 4.0), share=0.5,
        ),
        Row("20 of 200 labels per class, five classes, fine-tuning", fine_tuning, worlds // 2),
        views("all 20 labels per class, linear, a true difference", "linear", noise=(1.5, 2.0)),
        views(
            "10 of 200 labels per class, knn, a true difference", "knn", labels=200, noise=(1.5, 2.0),
            options={"per_class": 10},
        ),
        *(
            Row(f"one network against {seeds} untrained draws, knn", partial(untrained_draws, seeds=seeds), worlds)
            for seeds in (3, 5, 10, 20)
        ),
        Row("a table of 8 tasks with 3 pretrainings each, knn", several_pretrainings, worlds // 4),
    ]  # fmt: skip
    for target, few, many in (("labels", 100, 400), ("numbers", 100, 400), ("mask", 50, 200)):
        named = partial(two_views_of_targets, target=target)
        budget = {"num_labels": few // 2}
        found += [
            Row(f"{target}, all {few} images, linear", partial(named, probe="linear", images=few), worlds),
            Row(
                f"{target}, {few // 2} of {many} images, linear",
                partial(named, probe="linear", images=many, options=budget),
                worlds,
            ),
            Row(
                f"{target}, all {few} images, linear, a true difference",
                partial(named, probe="linear", images=few, noise=(1.5, 2.5)),
                worlds,
                different=True,
            ),
        ]
    knn = partial(two_views_of_targets, target="numbers", probe="knn", images=100)
    found += [
        Row("numbers, all 100 images, knn", knn, worlds),
        Row(
            "map, all 50 images, linear",
            partial(two_views_of_targets, target="map", probe="linear", images=50),
            worlds,
        ),
        Row("20 of 200 labels per class, five classes, finetune", further_training, worlds // 2),
    ]
    if folder is None:
        return found
    return [
        *found,
        views("photographs, all 20 labels per class, linear", "linear", real=True),
        views("photographs, all 8 labels per class, knn", "knn", labels=8, real=True),
        views(
            "photographs, 10 of 200 labels per class, linear, a true difference", "linear", labels=200,
            noise=(0.8, 1.4), options={"per_class": 10}, real=True,
        ),
        Row(
            "photographs, all pairs of 12 kinds of untrained CNNs, five draws each, linear",
            partial(untrained_cnns, folder=folder),
            max(1, worlds // 40),
            real=True,
        ),
    ]  # fmt: skip
