"""The Food-101 experiment: its split, its runs on the embedded sample, and its refusals."""

import json
import os
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch
from PIL import Image
from probing import made_up_report

from benchmarks.food101.__main__ import main
from benchmarks.food101.answers import answer_questions
from benchmarks.food101.presets import PRESETS
from benchmarks.food101.protocol import EXCLUDED_CLASSES, split_roles
from benchmarks.food101.studies import LATENT, LAYERS, PIXELS, Findings, balanced_subset
from ssl_pretext.data import ImageStore, list_food101
from ssl_pretext.tasks import Colorization

REAL = os.environ.get("SSL_PRETEXT_DATA")
CLASSES = sorted([*EXCLUDED_CLASSES, *(f"dish_{i:02d}" for i in range(83))])


def food_folder(root: Path, per_class: dict[str, int], *, pictures: bool = False) -> Path:
    """A folder in the layout of Food-101, with or without a picture for each name: a real photo, or else one color."""
    photos = iter(sorted(Path(REAL, "food-101", "images").glob("*/*0.jpg")) if REAL and pictures else ())
    meta = root / "food-101" / "meta"
    meta.mkdir(parents=True)
    (root / "food-101" / "images").mkdir()
    for split, count in per_class.items():
        listing = {c: [f"{c}/{split}{i}" for i in range(count)] for c in CLASSES}
        (meta / f"{split}.json").write_text(json.dumps(listing))
        for name in [name for names in listing.values() for name in names] if pictures else ():
            path = root / "food-101" / "images" / f"{name}.jpg"
            path.parent.mkdir(exist_ok=True)
            if REAL:
                shutil.copyfile(next(photos), path)
                continue
            color = tuple(
                torch.randint(0, 256, (3,), generator=torch.Generator().manual_seed(hash(name) % 999)).tolist()
            )
            Image.new("RGB", (36, 32), color).save(path)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SSL_PRETEXT_DATA", raising=False)
    monkeypatch.setitem(PRESETS, "smoke", replace(PRESETS["smoke"], image_size=20))  # the least are 17, for LPIPS


def test_counts_of_the_full_split(tmp_path):
    root = food_folder(tmp_path, {"train": 750, "test": 250})
    train, test = list_food101(root, "train"), list_food101(root, "test")
    assert len(set(EXCLUDED_CLASSES)) == 18
    roles = split_roles(train.names, train.labels, train.classes, EXCLUDED_CLASSES, seed=0)
    assert {role: len(indices) for role, indices in roles.items()} == {
        "pretrain": 56_025,
        "probe_in": 6_225,
        "probe_out": 1_350,
    }
    out = [test.classes[label] in EXCLUDED_CLASSES for label in test.labels]
    assert (out.count(False), out.count(True)) == (20_750, 4_500)
    used = {train.names[i] for indices in roles.values() for i in indices}
    assert len(used) == 56_025 + 6_225 + 1_350


def test_a_smoke_run_has_all_results_and_a_second_one_the_same(tmp_path, capsys):
    """The second run has one of the studies, and is compared in all that it shares with the first."""
    for folder, studies in (("one", []), ("two", ["--studies", "conv"])):
        assert main(["--preset", "smoke", "--out", str(tmp_path / folder), *studies]) == 0
    printed = capsys.readouterr().out
    assert "embedded sample" in printed
    assert "plan: 2 epochs of images at 20 px" in printed
    one, two = (json.loads((tmp_path / folder / "results.json").read_text()) for folder in ("one", "two"))
    for results in (one, two):
        del results["times"]
        assert results.pop("command").startswith("python -m benchmarks.food101")
    assert two["probes"] == [run for run in one["probes"] if run["study"] == "conv"]
    assert [row for row in two["summary"] if row["study"] == "conv"] == [
        row for row in one["summary"] if row["study"] == "conv"
    ]
    for key in ("environment", "data", "pretraining", "color_quality"):
        assert one[key] == two[key]
    keys = {"config", "environment", "data", "pretraining", "probes", "summary", "color_quality", "answers"}
    assert keys <= set(one)
    assert {row["domain"] for row in one["summary"]} == {"in", "out"}
    questions = [answer["question"] for answer in one["answers"]]
    starts = ["Conclusion 1", "Conclusion 2", "Conclusion 3", "The source's evidence", "The source's remark", "Idea"]
    assert [question.startswith(start) for question, start in zip(questions, starts, strict=False)] == [True] * 6
    assert questions[-1] == "Where are the source's four ideas for further work tested?"
    quality = {(row["images"], row["colors"]): row for row in one["color_quality"]}
    assert set(quality) == {(i, c) for i in ("train", "validation", "excluded") for c in ("predicted", "gray")}
    assert quality["validation", "gray"]["colored"] == 0 < quality["validation", "predicted"]["colored_truth"]
    names = {row["representation"] for row in one["summary"] if row["study"] == "conv"}
    assert {"RGB pixels", "L channel", "colorization latent", "colorization latent (untrained)"} < names
    assert {"pixels rgb 5×5", "color histogram"} < names
    assert {run["study"] for run in one["probes"]} == {"conv", "linear"}
    assert {row["per_class"] for row in one["label_efficiency"]} == {1, 2}
    assert one["chosen_layer"] in LAYERS
    assert all(len(run["history"]) <= 10 for run in one["probes"])
    page = unescape((tmp_path / "one" / "report.html").read_text())
    assert 'src="http' not in page
    assert all(answer["question"] in page for answer in one["answers"])
    assert isinstance(Colorization.from_pretrained(tmp_path / "one" / "task"), Colorization)

    # A folder with a finished run is refused, unless the run is resumed with the same settings.
    out = str(tmp_path / "one")
    assert main(["--preset", "smoke", "--out", out]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["--preset", "smoke", "--out", out, "--seed", "1", "--resume"]) == 2
    assert "other settings (seed" in capsys.readouterr().err
    cached = sorted((tmp_path / "one" / "probes").iterdir())
    for file in cached[::12]:
        file.unlink()
    assert main(["--preset", "smoke", "--out", out, "--resume"]) == 0
    assert json.loads((tmp_path / "one" / "results.json").read_text())["probes"] == one["probes"]


PREDICTED = {
    **{"images": "validation", "colors": "predicted", "psnr": 18.7, "ssim": 0.684, "auc_raw": 0.876},
    **{"auc_rebalanced": 0.718, "colorfulness": 39.0, "colorfulness_truth": 52.0},
    **{"mean_a": 8.0, "mean_a_truth": 8.4, "mean_b": 16.5, "mean_b_truth": 19.7},
    **{"colored": 0.95, "colored_truth": 0.89, "hue_yellow": 0.59, "hue_yellow_truth": 0.5},
    **{"hue_green": 0.06, "hue_green_truth": 0.1, "hue_blue": 0.006, "hue_blue_truth": 0.068},
    **{"hue_red": 0.344, "hue_red_truth": 0.332},
}
GRAY = {"images": "validation", "colors": "gray", "psnr": 17.7, "ssim": 0.884, "auc_raw": 0.83, "auc_rebalanced": 0.7}


def answers(findings: Findings, **changed: float) -> dict[str, str]:
    """The answers by the first words of their questions."""
    found = answer_questions(findings, [PREDICTED | changed, GRAY], ["smooth_l1"])
    return {" ".join(answer["question"].split()[:3]).rstrip(":"): answer["answer"] for answer in found}


def test_the_answers_about_colors_follow_from_the_numbers():
    found = answers(Findings())
    quality = found["Conclusion 1: do"]
    assert "closer by PSNR (18.7; gray 17.7), AuC (0.876; gray 0.830) and rebalanced AuC" in quality
    assert "but not closer by SSIM (0.684; gray 0.884)." in quality
    bias = found["The source's remark"]
    assert "is as red as the true mean within one unit of Lab (a = 8.0; the true mean has 8.4)" in bias
    assert "less yellow by 3.2 units (b = 16.5; the true mean has 19.7)" in bias
    assert "have 75% of the true colorfulness" in bias
    assert "59.0% are yellow (true images: 50.0%), 6.0% green (10.0%), 0.6% blue (6.8%) and 34.4% red (33.2%)" in bias
    assert "The dominant hue is yellow in both." in bias
    assert "yellow is the most exaggerated (+9.0 points), and that of blue is reduced the most (-6.2 points)" in bias

    worse = answers(Findings(), psnr=1.0, auc_raw=0.1, auc_rebalanced=0.1)["Conclusion 1: do"]
    assert "they are not closer by PSNR (1.0; gray 17.7), SSIM" in worse
    better = answers(Findings(), ssim=0.9)["Conclusion 1: do"]
    assert "SSIM (0.900; gray 0.884)" in better
    assert "but not" not in better
    bluer = answers(Findings(), mean_b=21.0, hue_yellow=0.2, hue_blue=0.396)["The source's remark"]
    assert "more yellow by 1.3 units" in bluer
    assert "The dominant hue is blue; in the true images it is yellow." in bluer


@pytest.mark.parametrize(("latent", "verdict"), [(4.5, "not reproduced"), (4.3, "reproduced in-domain")])
def test_the_evidence_of_the_source_is_judged_by_the_final_losses(latent, verdict):
    twin = f"{LATENT} (untrained)"
    losses = {LATENT: latent, PIXELS: 4.4, twin: 4.6}
    report = made_up_report({name: [0.05, 0.06] for name in losses}, {LATENT: [twin]})
    report.card["against"][LATENT]["pixels"] = PIXELS
    for run in report.runs:
        run["history"][-1] |= {
            "train_loss": 4.0,
            "train_accuracy": 0.1,
            "test_loss": losses[run["representation"]],
        }
    found = answers(Findings({"conv": {"in": report, "out": report}}))
    evidence = found["The source's evidence"]
    assert f"On test images, this is {verdict}" in evidence
    lower = 2 if latent < 4.4 else 0
    assert (
        f"test images: {latent:.3f} on the latent, 4.400 on RGB pixels (lower on the latent in {lower} of 2" in evidence
    )
    assert "4.600 on the untrained latent" in evidence
    assert "training images: 4.000 on the latent, 4.000 on RGB pixels (lower on the latent in 0 of 2" in evidence
    assert (
        "its own training images: 10.0% on colorization latent, 10.0% on RGB pixels and 10.0%"
        in found["Conclusion 2: do"]
    )


def test_a_balanced_subset_has_equally_many_images_of_each_class():
    store = ImageStore.from_arrays(torch.zeros(30, 3, 4, 4, dtype=torch.uint8), [0] * 10 + [1] * 10 + [2] * 10)
    assert balanced_subset(store, None) is balanced_subset(store, 30) is store
    assert balanced_subset(store, 13).labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def refused(capsys, *arguments: str) -> str:
    """The error of a command that must be refused in one line before it writes anything."""
    before = set(Path().iterdir())
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmarks.food101: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert set(Path().iterdir()) == before, "something was written"
    return error


def test_wrong_options_are_refused_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert "no data folder nowhere" in refused(capsys, "--data", "nowhere")
    assert "food-101/images/CLASS/ID.jpg" in refused(capsys, "--data", "empty")
    assert "no preset 'tiny'; known: first, smoke, cpu, cpu-64, cpu-full, documented" in refused(
        capsys, "--preset", "tiny"
    )
    assert "no loss named 'smooth_l2'. Did you mean 'smooth_l1'" in refused(capsys, "--losses", "smooth_l2=1")
    assert "no study 'cnv'; known: conv, linear" in refused(capsys, "--studies", "cnv")
    assert "losses are written" in refused(capsys, "--losses", "smooth_l1=")
    assert "holds files that no run of this experiment wrote" in refused(capsys, "--preset", "smoke", "--out", "taken")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--preset documented is made for a GPU" in refused(capsys, "--preset", "documented")
    assert "--device cuda needs a GPU, but PyTorch finds no CUDA device" in refused(capsys, "--device", "cuda")


def test_unreadable_images_are_skipped_and_listed_up_to_one_percent(tmp_path, capsys):
    root = food_folder(tmp_path / "data", {"train": 10, "test": 2}, pictures=True)
    images = sorted((root / "food-101" / "images").glob("*/train*.jpg"))
    images[0].write_bytes(b"no picture")
    arguments = ["--data", str(root), "--preset", "smoke", "--losses", "smooth_l1=1", "--studies", "conv"]
    arguments += ["--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "skipped 1 unreadable images" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["data"]["counts"]["pretraining"] == 83 * 2
    assert results["data"]["skipped"][0]["name"] == f"{images[0].parent.name}/{images[0].stem}"
    for image in images[:12]:
        image.write_bytes(b"no picture")
    assert main([*arguments[:-1], str(tmp_path / "other")]) == 2
    assert "12 of 1010 images cannot be read, more than 1%" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_run_locks_its_folder_and_overwriting_empties_it(tmp_path, capsys, monkeypatch):
    def execute(run, *_):
        assert (run.out / ".lock").read_text().startswith("process ")
        (run.out / "figures").mkdir()  # fails if the folder exists already

    monkeypatch.setattr("benchmarks.food101.experiment.Run.execute", execute)
    monkeypatch.delenv("SSL_PRETEXT_DATA", raising=False)
    arguments = ["--preset", "smoke", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "figures"]


@pytest.mark.parametrize("name", PRESETS)
def test_help_shows_each_preset(name, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert PRESETS[name].about in capsys.readouterr().out


@pytest.mark.skipif(not REAL, reason="SSL_PRETEXT_DATA is not set to a folder with Food-101")
def test_the_real_food_has_the_layout_that_is_expected():
    for split in ("train", "test"):
        listing = list_food101(REAL, split)
        assert len(listing.classes) == 101
        assert set(EXCLUDED_CLASSES) < set(listing.classes)
        assert len(set(listing.names)) == len(listing.labels) >= 101
