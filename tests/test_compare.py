"""The command `compare`, run in this process on folders of a few small photos."""

import json
from pathlib import Path

import pytest
from cli_runs import cli_folder, error_line, interrupt  # noqa: F401 (cli_folder is a fixture)

import ssl_pretext as sp
from ssl_pretext.cli import main
from ssl_pretext.probes import ProbeReport

pytestmark = pytest.mark.usefixtures("cli_folder")

SMALL = ["--data", "labeled", "--probe", "knn[k=1]", "--seeds", "2", "--device", "cpu"]


def test_compare_answers_in_a_sentence_and_writes_a_table_for_each_number_of_labels(capsys):
    layer = sp.PretextTask.from_pretrained("run").layers()[0]
    networks = ["run", f"run/task:{layer}", "timm/resnet10t", "pixels"]
    assert main(["compare", *networks, *SMALL, "--per-class", "4,1", "--out", "both"]) == 0
    output = capsys.readouterr().out
    assert "18 images of 3 classes in labeled" in output
    assert "1 and 4 labels per class, 2 seeds, 16 px" in output
    assert "| representation | 1 labels per class | 4 labels per class |" in output
    results = json.loads(Path("both/compare.json").read_text())
    assert results["answer"][0].startswith("With 4 labels per class, ")
    assert results["answer"][0] in output
    assert "corrected for all 20 pairs" in results["answer"][-1]
    report = ProbeReport.from_dict(results["reports"]["4 labels per class"], Path("both/compare.json"))
    assert report.names == ["run", f"run/task:{layer}", "timm/resnet10t", "pixels rgb", "color histogram"]
    best = max(report.names, key=lambda name: report.interval(name).mean)
    assert f", {best} is best" in results["answer"][0] or f": {best} scores best" in results["answer"][0]
    expected = sp.evaluate(
        {"run": sp.PretextTask.from_pretrained("run")},
        *sp.ImageStore.from_folder("labeled", image_size=16).split(0.25, seed=0),
        probe="knn[k=1]", per_class=4, seeds=2, controls=[],
    )  # fmt: skip
    assert report.values("run") == expected.values("run")
    page = Path("both/report.html").read_text()
    assert page.index("which features are best?") < page.index("How do they score?") < page.index("What was compared")
    assert ("What does the network find alike?" in page) == (best not in ("pixels rgb", "color histogram"))
    assert ("by number of labeled images per class" in page) + ("minus that of each other one" in page) == 2


def test_compare_uses_all_labels_and_a_file_of_options(capsys):
    Path("compare.yaml").write_text("data: labeled\nprobe: knn\nseeds: 1\ncontrols: histogram\nout: all\n")
    assert main(["compare", "run", "--config", "compare.yaml"]) == 0
    assert "all labels, 1 seeds" in capsys.readouterr().out
    results = json.loads(Path("all/compare.json").read_text())
    assert [*results["reports"]] == ["all labels"]
    page = Path("all/report.html").read_text()
    assert ("by number of labeled images per class" in page) + ("minus that of each other one" in page) == 1


def test_compare_takes_numbers_of_a_table():
    rows = [
        "file,size",
        *(f"{path.relative_to('labeled')},{len(path.name)}" for path in Path("labeled").rglob("*.png")),
    ]
    Path("sizes.csv").write_text("\n".join(rows))
    table = ["--labels", "sizes.csv", "--columns", "label=size", "--target", "numbers", "--num-labels", "4,6"]
    request = ["compare", "run", "--data", "labeled", "--probe", "knn", "--seeds", "1", "--out", "numbers"]
    assert main([*request, *table]) == 0
    assert [*json.loads(Path("numbers/compare.json").read_text())["reports"]] == ["4 labels", "6 labels"]


def test_compare_says_how_to_continue_after_ctrl_c(capsys, monkeypatch):
    monkeypatch.setattr("ssl_pretext.cli.compare.evaluate", interrupt)
    message = error_line(capsys, "compare", "run", *SMALL, "--out", "stopped", code=130)
    assert "The same command continues; probes that were finished are not trained again." in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data labeled", "no network is named; name the output folder of pretrain, or a network such as"),
        ("pixels --data labeled", "no network is named; name the output folder"),
        ("run run --data labeled", "run is named twice; name each network once"),
        ("run resnet18 --data labeled", "Did you mean 'timm/resnet18' or 'torchvision/resnet18'?"),
        ("run --data labeled --per-class 5,x", "--per-class must be numbers of labels separated by commas, such as"),
        ("run --data labeled --per-class 5,5", "--per-class must be numbers of labels separated by commas, such as"),
        ("run --data labeled --num-labels 5", "for --target class, use --per-class in place of --num-labels"),
        ("run --data labeled --per-class 99", "labeled images, fewer than --per-class=99"),
        ("run --data labeled --probe linaer", "no probe named 'linaer'. Did you mean 'linear'"),
        ("run --data labeled --controls colors", "there is no control 'colors'; known: untrained, before, pixels"),
        ("autoencoder --data labeled", "autoencoder records no image size; set --image-size"),
        ("timm/resnet10t timm/efficientnet_b3 --data labeled", "the networks were made for different image sizes:"),
    ],
)
def test_compare_refuses_wrong_requests(arguments, message, capsys):
    assert message in error_line(capsys, "compare", *arguments.split(), "--out", "refused")
    assert not list(Path().glob("refused/*.html"))
