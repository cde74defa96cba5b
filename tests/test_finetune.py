"""The command `finetune`: what it compares, what it writes, and wrong requests; and the network that it saves."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from cli_runs import cli_folder, error_line, interrupt  # noqa: F401 (cli_folder is a fixture)

import ssl_pretext as sp
from ssl_pretext.cli import main
from ssl_pretext.export import finetune_classifier, load_classifier
from ssl_pretext.probes import FinetuneConfig, ProbeReport
from ssl_pretext.saving.contract import WEIGHTS_FILE

pytestmark = pytest.mark.usefixtures("cli_folder")

REQUEST = ["finetune", "run", "--data", "labeled", "--holdout", "0.5", "--device", "cpu"]
FEW = ["--seeds", "2", "--epochs", "2", "--per-class", "2"]


@pytest.fixture(scope="module")
def finetuned(cli_folder):  # noqa: F811
    assert main([*REQUEST, *FEW]) == 0
    return Path("run/finetune")


def test_both_tables_and_the_answer_are_printed_and_written(finetuned, capsys):
    assert main(["finetune", "run", "--config", "run/finetune/finetune.yaml"]) == 0, "all options are in the file"
    output = capsys.readouterr().out
    assert output.count("| colorization (untrained) |") == 2
    assert "colorization, fine-tuned: " in output
    assert "with the linear probe" in output
    found, frozen = (ProbeReport.from_json(finetuned / f"{probe}.json") for probe in ("finetune", "linear"))
    assert found.names == frozen.names == ["colorization", "colorization (untrained)"]
    assert found.card["epochs"] == 2
    page = (finetuned / "report.html").read_text()
    assert all(
        text in page for text in ("finetune probe", "linear probe", "fine-tuned: ", "minus untrained", "find alike?")
    )
    assert yaml.safe_load((finetuned / "finetune.yaml").read_text())["epochs"] == 2
    assert json.loads((finetuned / "skipped.json").read_text()) == []


def test_the_saved_network_has_the_classes_and_predicts_as_it_was_tested(finetuned):
    description = json.loads((finetuned / "network/classifier.json").read_text())
    assert description["names"] == ["astronaut", "chelsea", "china"]
    assert description["trained"]["images"] == description["test"]["images"] == 9
    _, network = load_classifier(finetuned / "network")
    _, test = sp.ImageStore.from_folder("labeled", image_size=16).split(0.5, seed=0)
    with torch.no_grad():
        hits = network(test.images()).argmax(dim=1) == test.labels
    assert float(hits.double().mean()) == pytest.approx(description["test"]["accuracy"])
    assert network.num_features == network.forward_features(test.images([0])).shape[1]
    before = sp.PretextTask.from_pretrained("run").features(test.images())
    assert not torch.equal(network.forward_features(test.images()), before)


def test_numbers_are_predicted_in_their_units(tmp_path):
    train, _ = sp.ImageStore.from_folder("labeled", image_size=16).split(0.5, seed=0)
    brightness = 1e4 + 100 * train.images().double().mean(dim=(1, 2, 3))
    options = {"target": "numbers", "epochs": 40, "training": FinetuneConfig(learning_rate=3e-3), "device": "cpu"}
    task = sp.create_task("colorization", encoder="timm/resnet10t[layer=layer1]")
    scores = finetune_classifier(task, (train, brightness), (train, brightness), tmp_path, **options)
    _, network = load_classifier(tmp_path)
    with torch.no_grad():
        error = (network(train.images())[:, 0].double() - brightness).square().mean().sqrt()
    assert float(error) == pytest.approx(scores["rmse"], rel=1e-3)
    assert scores["r2"] > 0.3


def test_a_damaged_network_is_refused(finetuned, tmp_path, capsys):
    import shutil

    copied = tmp_path / "network"
    shutil.copytree(finetuned / "network", copied)
    text = (copied / "classifier.json").read_text()
    (copied / "classifier.json").write_text(text.replace("astronaut", "chelsee"))
    with pytest.raises(sp.PretextError, match="has changed since it was saved"):
        load_classifier(copied)
    (copied / "classifier.json").write_text(text)
    (copied / WEIGHTS_FILE).write_bytes(b"no weights")
    with pytest.raises(sp.PretextError, match="do not fit the classifier"):
        load_classifier(copied)


def test_it_says_how_to_continue_after_ctrl_c(capsys, monkeypatch):
    monkeypatch.setattr("ssl_pretext.cli.finetune.evaluate", interrupt)
    message = error_line(capsys, *REQUEST, "--out", "stopped_finetune", code=130)
    assert "The same command continues; networks that were tested are not trained again." in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere --data labeled", "there is no folder nowhere with a saved task"),
        ("run --data nowhere", "there is no data folder nowhere"),
        ("run --data labeled --epochs 0", "epochs must be a whole number of at least 1, got 0"),
        ("run --data labeled --layer-decay 2", "--layer-decay must be above 0 and at most 1, got 2.0"),
        ("run --data labeled --layer-decay 0.5", "layer-decay=0.5 needs a network whose layers are in order"),
        ("run --data labeled --patience 0", "--patience must be a whole number of at least 1, got 0"),
        ("run --data labeled --batch-size 1", "--batch-size (BatchNorm needs two images) must be a whole number"),
        ("run --config other.yaml", "other.yaml contains task, which finetune does not have"),
    ],
)
def test_wrong_requests_are_refused(arguments, message, capsys):
    Path("other.yaml").write_text("task: rotation")
    assert message in error_line(capsys, "finetune", *arguments.split(), "--out", "refused")
    assert not Path("refused/finetune.json").exists()
