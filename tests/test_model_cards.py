"""The model card of a run shows its newest probe, and keeps what was edited."""

from pathlib import Path

import pytest
from cli_runs import cli_folder  # noqa: F401 (a fixture)

import ssl_pretext as sp
from ssl_pretext.cli import main
from ssl_pretext.cli.model_cards import newest_report, update_card

pytestmark = pytest.mark.usefixtures("cli_folder")


def test_the_card_of_a_run_shows_its_newest_probe_and_keeps_what_was_edited(capsys):
    card = Path("run/task/README.md")
    assert "Not evaluated yet" in card.read_text() or "simple alternatives?" in card.read_text()
    card.write_text(card.read_text().replace("Data: not stated", "Data: my own photos"))
    common = ["--data", "labeled", "--seeds", "1", "--controls", "pixels,histogram,joined"]
    assert main(["probe", "run", *common, "--probe", "knn", "--out", "run/by_neighbors"]) == 0
    assert "model card: run/task/README.md" in capsys.readouterr().out
    first = card.read_text()
    assert main(["probe", "run", *common, "--probe", "linear", "--out", "run/by_lines"]) == 0
    second = card.read_text()
    report = sp.ProbeReport.from_json("run/by_lines/linear.json")
    for text, probe in ((first, "knn"), (second, "linear")):
        assert "Data: my own photos" in text
        assert f"Scores of a {probe} probe on frozen features" in text
        assert text.count("## Evaluation\n") == text.count("## License\n") == 1
        assert "Not evaluated yet" not in text
    assert report.table() in second
    assert "colorization + color histogram" in second
    assert second.partition("---\n\n")[0].count("type: accuracy") == 1, "the joined row is no result of the model alone"
    assert report.verdict().sentences[0] in second
    assert str(report.summary()[0]["test_accuracy_mean"]) in second.partition("---\n\n")[0]
    assert sp.PretextTask.from_pretrained("run").name == "colorization"
    card.write_text("# My card\n")
    assert main(["probe", "run", *common, "--probe", "linear", "--out", "run/by_lines"]) == 0
    assert card.read_text() == "# My card\n"


def test_a_run_without_a_probe_keeps_its_card(tmp_path):
    sp.create_task("rotation", channels="rgb", encoder="timm/resnet10t[layer=layer1]").save_pretrained(tmp_path)
    before = (tmp_path / "README.md").read_text()
    assert newest_report(tmp_path) is None
    assert update_card(tmp_path) is None
    assert (tmp_path / "README.md").read_text() == before
