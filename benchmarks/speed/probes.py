"""Time of probes, compared with features computed again for every batch and with scikit-learn."""

import torch
import torch.nn.functional as F

import ssl_pretext as sp
from benchmarks.speed.classifiers import fit_scikit_learn
from benchmarks.speed.new_process import measure_in_new_process
from benchmarks.speed.timing import OURS, Measurement, RunOptions, check_equal, time_in_turn
from ssl_pretext.probes import ConvProbe
from ssl_pretext.probes.linear import DECAYS, pool

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
            probe="documented_conv",
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
    """Times linear probes on six layers with all weight decays, of which the best is fitted again on all images."""
    from sklearn.preprocessing import StandardScaler

    train, test, task = _photos("train", small=options.small), _photos("test", small=options.small), _task()

    def ours() -> list[float]:
        layers = task.representations(LAYERS)
        report = sp.evaluate(layers, train, test, probe="linear", seeds=1, controls=False, device="cpu")
        return [report.values(name)[0] for name in layers]

    def scikit_learn() -> list[float]:
        labels, truth = train.labels.numpy(), test.labels.numpy()
        accuracies = []
        for layer in LAYERS:
            with torch.no_grad():
                maps = [
                    [task.features(store.images(batch), layer) for batch in torch.arange(len(store)).split(256)]
                    for store in (train, test)
                ]
            known, asked = (pool(torch.cat(batches)).numpy() for batches in maps)
            scaler = StandardScaler().fit(known)
            known, asked = (scaler.transform(features) / known.shape[1] ** 0.5 for features in (known, asked))
            _, final = fit_scikit_learn(known, labels, DECAYS)
            accuracies.append(final.score(asked, truth))
        return accuracies

    difference = (torch.tensor(ours()) - torch.tensor(scikit_learn())).abs()
    # Both have run for the comparison of their results.
    taken = time_in_turn({OURS: ours, "scikit-learn": scikit_learn}, rounds=min(options.rounds, 3), warm_up=False)
    return [
        Measurement(
            work=f"linear probes, 6 layers × {len(DECAYS)} weight decays, {len(train)} photos of 32 px",
            variants=taken,
            goals={"scikit-learn": 1},
            agreement=f"the test accuracies differ by {100 * difference.mean():.1f} points on average",
        )
    ]


def _task() -> sp.Colorization:
    torch.manual_seed(0)
    return sp.Colorization("autoencoder", target="rgb", losses={"smooth_l1": 1.0}).eval()


def _photos(split: str, *, small: bool) -> sp.ImageStore:
    store = sp.sample_photos(split, image_size=32)
    return store.subset(range(0, len(store), 12 if small else 2 if split == "train" else 4))
