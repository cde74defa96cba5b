"""Probes during a run measure what they say, choose nothing and change nothing."""

import csv

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from probing import two_classes
from training_runs import noise_store, small_encoder

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.monitoring import OnlineProbe
from ssl_pretext.system.files import read_json


def labeled(count: int = 40) -> sp.ImageStore:
    return sp.ImageStore.from_arrays(*two_classes(count, size=16))


def train(out, *, epochs: int = 3, callbacks=(), **options):
    """A run with random noise on the input, whose random numbers would show any change."""
    torch.manual_seed(0)
    task = sp.CrossChannelPrediction("lab:L", "lab:ab", small_encoder(), input_noise=0.1)
    config = sp.FitConfig(out=out, epochs=epochs, batch_size=8, device="cpu", **options)
    sp.fit(task, noise_store(16), config, callbacks=callbacks)
    return task


def test_weights_are_the_same_with_and_without_and_results_are_those_of_evaluate(tmp_path):
    probing = OnlineProbe(labeled(), every=2, probes="knn", seeds=2)
    task, plain = train(tmp_path / "probed", callbacks=[probing]), train(tmp_path / "plain")
    for name, value in plain.state_dict().items():
        assert torch.equal(value, task.state_dict()[name]), name
    assert [row["epoch"] for row in probing.rows] == [0, 2, 3]
    assert read_json(tmp_path / "probed" / "online_probe.json") == probing.rows
    again = sp.evaluate({"network": task}, probing.train, probing.held_out, probe="knn", seeds=2)
    row = again.difference("network", "network (untrained)")
    last = probing.rows[-1]
    assert last["mean"] == again.interval("network").mean
    assert (last["difference"], last["untrained"]) == (
        pytest.approx(row["mean"]),
        again.interval("network (untrained)").mean,
    )
    assert last["words"].split("(")[0] in row["words"]
    page = (tmp_path / "probed" / "report.html").read_text()
    assert "Is it learning what helps?" in page
    assert "knn, untrained" in page
    with (tmp_path / "probed" / "logs" / "csv" / "metrics.csv").open() as file:
        logged = [float(row["probe/knn_accuracy"]) for row in csv.DictReader(file) if row["probe/knn_accuracy"]]
    assert logged == pytest.approx([row["mean"] for row in probing.rows])


class Stop(Callback):
    """Ends a run in the middle, as a failure would."""

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 2:
            raise RuntimeError("stopped")


def test_a_resumed_run_keeps_the_rows_and_the_untrained_twin(tmp_path):
    def probing():
        return OnlineProbe(labeled(), every=1, probes="knn", seeds=2)

    with pytest.raises(RuntimeError, match="stopped"):
        train(tmp_path / "stopped", callbacks=[probing(), Stop()])
    resumed, whole = probing(), probing()
    train(tmp_path / "stopped", callbacks=[resumed], resume=True)
    train(tmp_path / "whole", callbacks=[whole])
    assert resumed.rows == whole.rows
    assert [row["epoch"] for row in whole.rows] == [0, 1, 2, 3]


def test_an_epoch_is_kept_if_the_run_is_stopped_while_it_is_probed(tmp_path, monkeypatch):
    """The epoch is trained once, and the weights in the end are those of a run that was not stopped."""
    probing, probe = OnlineProbe(labeled(), every=1, probes="knn", seeds=2), OnlineProbe._probe

    def stop(self, trainer, module, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        probe(self, trainer, module, epoch)

    monkeypatch.setattr(OnlineProbe, "_probe", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", callbacks=[probing])
    monkeypatch.undo()
    before = [row["train_loss"] for row in read_json(tmp_path / "stopped" / "history.json")]
    assert torch.load(tmp_path / "stopped" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    resumed = OnlineProbe(labeled(), every=1, probes="knn", seeds=2)
    task, whole = train(tmp_path / "stopped", callbacks=[resumed], resume=True), train(tmp_path / "whole")
    assert len(before) == 2
    assert [row["epoch"] for row in resumed.rows] == [0, 1, 3]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, task.state_dict()[name]), name


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (noise_store(8), {"every": 0}, ArgumentError, "every must be a whole number of at least 1, got 0"),
        (noise_store(8), {"probes": "nothing"}, UnknownNameError, "nothing"),
        (noise_store(8), {"probes": "knn,knn"}, ArgumentError, "no probe twice"),
        (
            sp.ImageStore.from_arrays(torch.rand(4, 3, 8, 8)),
            {},
            ArgumentError,
            "labeled images of at least two classes",
        ),
    ],
)
def test_a_wrong_request_is_refused(images, options, error, message):
    with pytest.raises(error, match=message):
        OnlineProbe(images, **options)
