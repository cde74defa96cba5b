"""Time of probes, compared with features computed again for every batch and with settings trained one by one."""

import time
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ssl_pretext as sp
from benchmarks.speed.new_process import measure_in_new_process
from benchmarks.speed.timing import OURS, Measurement, RunOptions, check_equal, time_in_turn
from ssl_pretext.probes import ConvProbe, LinearProbe
from ssl_pretext.probes.linear import BATCH_SIZE, DECAYS, MIN_STEPS, MOMENTUM, RATES, VALIDATION

__all__ = ["ConvProbeWork", "conv_probe", "linear_probes"]

LAYERS = (
    "body.conv_in",
    "body.down_blocks.0",
    "body.down_blocks.1",
    "body.down_blocks.2",
    "body.mid_block",
    "body.conv_out",
)


class ConvProbeWork:
    """Ten epochs of the conv probe on the latent, which is computed once, or for every batch as in the source."""

    def __init__(self, *, small: bool) -> None:
        self.epochs = 2 if small else 10
        self.train, self.test, self.task = _photos("train", small=small), _photos("test", small=small), _task()

    def ours(self) -> list[float]:
        """Returns the test accuracies of all epochs; the latent is computed once."""
        report = sp.evaluate(
            {"latent": self.task.representation()},
            self.train,
            self.test,
            probe="conv",
            epochs=self.epochs,
            seeds=1,
            controls=False,
            device="cpu",
        )
        return [row["test_accuracy"] for row in report.runs[0]["history"]]

    def each_time(self) -> list[float]:
        """Returns the test accuracies of all epochs; the latent is computed again for every batch."""
        train, test = self.train, self.test
        torch.manual_seed(0)
        with torch.no_grad():
            channels = self.task.features(train.images([0])).shape[1]
        probe = ConvProbe(channels, len(train.classes))
        optimizer = torch.optim.AdamW(probe.parameters(), lr=3e-4, weight_decay=2e-5)
        generator, accuracies = torch.Generator().manual_seed(0), []
        for _ in range(self.epochs):
            probe.train()
            for batch in torch.randperm(len(train), generator=generator).tensor_split(len(train) // 64):
                with torch.no_grad():
                    inputs = self.task.features(train.images(batch))
                loss = F.cross_entropy(probe(inputs), train.labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            probe.eval()
            with torch.no_grad():
                guesses = [
                    probe(self.task.features(test.images(batch))).argmax(1)
                    for batch in torch.arange(len(test)).split(256)
                ]
            accuracies.append(int((torch.cat(guesses) == test.labels).sum()) / len(test))
        return accuracies


def conv_probe(options: RunOptions) -> list[Measurement]:
    """Times the documented probe, each variant in a new process, since `evaluate` changes settings of malloc."""
    work = ConvProbeWork(small=options.small)
    error = check_equal("re-encoding", torch.tensor(work.ours()), torch.tensor(work.each_time()), within=0.0)
    methods = {OURS: "ours", "encoding every batch": "each_time"}
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(1 if options.small else min(options.rounds, 5)):
        for name, method in methods.items():
            taken[name].append(measure_in_new_process("conv_probe", method=method, small=options.small)["seconds"])
    return [
        Measurement(
            work=f"conv probe, latent of the documented autoencoder, {work.epochs} epochs of {len(work.train)} photos "
            "of 32 px, a new process each time",
            variants=taken,
            goals={"encoding every batch": 3},
            agreement=f"the accuracies of all epochs differ by {error:g}",
        )
    ]


def linear_probes(options: RunOptions) -> list[Measurement]:
    """Times linear probes on six layers with twelve settings each, of which the best is trained again on all images."""
    epochs = 2 if options.small else 100
    train, test, task = _photos("train", small=options.small), _photos("test", small=options.small), _task()

    def ours() -> list[float]:
        layers = task.representations(LAYERS)
        report = sp.evaluate(layers, train, test, probe="linear", epochs=epochs, seeds=1, controls=False, device="cpu")
        return [report.accuracies(name)[0] for name in layers]

    def one_by_one() -> list[float]:
        kept, held_out = sp.holdout_split(train.names, train.labels, fraction=VALIDATION, seed=0)
        accuracies = []
        for layer in LAYERS:
            with torch.no_grad():
                parts = [
                    torch.cat(
                        [task.features(store.images(batch), layer) for batch in torch.arange(len(store)).split(256)]
                    )
                    for store in (train, test)
                ]
            labeled = (parts[0], train.labels)
            scored = []
            for rate, decay in product(RATES, DECAYS):
                probe = _trained(labeled[0][kept], labeled[1][kept], rate, decay, epochs)
                scored.append((_accuracy(probe, labeled[0][held_out], labeled[1][held_out]), rate, decay))
            _, rate, decay = max(scored, key=lambda found: found[0])
            accuracies.append(_accuracy(_trained(*labeled, rate, decay, epochs), parts[1], test.labels))
        return accuracies

    start = time.perf_counter()
    theirs = one_by_one()
    theirs_taken = [time.perf_counter() - start]
    difference = (torch.tensor(ours()) - torch.tensor(theirs)).abs()
    taken = time_in_turn({OURS: ours}, rounds=min(options.rounds, 3))
    return [
        Measurement(
            work=f"linear probes, 6 layers × 12 settings, {epochs} epochs of {len(train)} photos of 32 px",
            variants=taken | {"one after another": theirs_taken},
            goals={"one after another": 8},
            agreement=f"the test accuracies differ by {100 * difference.mean():.1f} points on average",
        )
    ]


def _trained(features: Tensor, labels: Tensor, rate: float, decay: float, epochs: int) -> nn.Module:
    """Trains a linear probe with PyTorch's optimizer, with the settings and the schedule of the library's probe."""
    probe = LinearProbe(features.shape[1], int(labels.max()) + 1)
    probe(features[:2])
    nn.init.zeros_(probe.classify.weight)
    nn.init.zeros_(probe.classify.bias)
    inputs = probe.classify.in_features
    optimizer = torch.optim.SGD(
        [
            {"params": [probe.classify.weight], "weight_decay": decay * inputs, "lr": rate / inputs},
            {"params": [probe.classify.bias], "lr": rate / inputs},
        ],
        momentum=MOMENTUM,
        nesterov=True,
    )
    steps = max(min(MIN_STEPS, len(labels)), round(len(labels) / BATCH_SIZE))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * epochs)
    generator = torch.Generator().manual_seed(0)
    probe.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).tensor_split(steps):
            loss = F.cross_entropy(probe(features[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return probe.eval()


@torch.no_grad()
def _accuracy(probe: nn.Module, features: Tensor, labels: Tensor) -> float:
    return float((probe(features).argmax(1) == labels).float().mean())


def _task() -> sp.Colorization:
    torch.manual_seed(0)
    return sp.Colorization("autoencoder", target="rgb", losses={"smooth_l1": 1.0}).eval()


def _photos(split: str, *, small: bool) -> sp.ImageStore:
    store = sp.sample_photos(split, image_size=32)
    return store.subset(range(0, len(store), 12 if small else 2 if split == "train" else 4))
