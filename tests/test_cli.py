"""The commands `pretrain`, `probe` and `list`, run in this process on folders of a few small photos."""

import json
import re
import shlex
import shutil
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from cli_runs import (
    SMALL,
    cli_folder,  # noqa: F401 (a fixture)
    error_line,
    interrupt,
    save_image,
    save_two_channels,
)
from PIL import Image

import ssl_pretext as sp
from ssl_pretext.cli import main
from ssl_pretext.probes import ProbeReport
from ssl_pretext.saving.contract import TrainedOn
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.version import __version__

pytestmark = pytest.mark.usefixtures("cli_folder")

ROOT = Path(sp.__file__).parents[1]


def test_pretrain_writes_the_task_the_options_and_the_skipped_images():
    assert sp.PretextTask.from_pretrained("run/task").trained_on.image_size == 16
    (skipped,) = json.loads(Path("run/skipped.json").read_text())
    assert skipped["name"] == "broken.jpg"
    assert "cannot identify image file" in skipped["reason"]
    assert yaml.safe_load(Path("run/pretrain.yaml").read_text()).items() >= {
        "data": "photos", "task": "colorization", "encoder": "autoencoder", "out": "run", "batch_size": 8
    }.items()  # fmt: skip


def test_pretrain_resumes_with_its_own_file_of_options(capsys):
    before = Path("run/history.json").read_text()
    assert main(["pretrain", "--config", "run/pretrain.yaml", "--resume"]) == 0
    assert Path("run/history.json").read_text() == before
    assert "18 images of 16 px from photos; unreadable and skipped: 1, see run/skipped.json" in capsys.readouterr().out


def test_pretrain_starts_from_another_run_and_probes_averaged_weights(capsys):
    start = ["--data", "photos", "--init-from", "run", "--out", "warm", "--loggers", "csv", "--ema-decay", "0.5"]
    constant = ["--schedule", "constant", "--warmup", "0"]
    assert main(["pretrain", *start, *constant, "--task", "colorization", *SMALL]) == 0
    assert len(sp.PretextTask.from_pretrained("warm/task").trained_on.initialized_from) == 64
    assert main(["pretrain", "--config", "warm/pretrain.yaml", "--resume", "--epochs", "2"]) == 0
    assert len(json.loads(Path("warm/history.json").read_text())) == 2
    assert "epochs: 2" in Path("warm/pretrain.yaml").read_text()
    assert main(["probe", "warm", "--data", "labeled", "--test", "labeled_test", "--probe", "knn", "--seeds=1"]) == 0
    assert "| colorization (averaged weights) |" in capsys.readouterr().out


def test_pretrain_probes_during_the_training_and_changes_nothing(capsys):
    probing = ["--task", "colorization", "--probe-data", "labeled", "--probe-every", "1"]
    assert main(["pretrain", "--data", "photos", "--out", "probed", *probing, *SMALL]) == 0
    assert re.search(r"probes after epoch 1: knn [\d.]+% \(untrained [\d.]+%\); linear", capsys.readouterr().out)
    assert "Is it learning what helps?" in Path("probed/report.html").read_text()
    files = [Path(run, "task/model.safetensors") for run in ("run", "probed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert main(["pretrain", "--config", "probed/pretrain.yaml", "--resume"]) == 0
    (one_class, *_) = sorted(Path("labeled").iterdir())
    wrong = ["--out", "unwritten", "--probe-data", str(one_class)]
    assert "outside class folders" in error_line(capsys, "pretrain", "--data", "photos", *wrong, *SMALL)
    assert not Path("unwritten").exists()


def test_pretrain_looks_at_a_few_labeled_images_before_it_reads_all(capsys, monkeypatch):
    save_two_channels("two_channels")
    monkeypatch.setattr("ssl_pretext.cli.pretrain._images", interrupt)
    request = ["pretrain", "--data", "photos", "--out", "unwritten", "--probe-data", "two_channels", *SMALL]
    line = error_line(capsys, *request)
    assert "the images in photos have 3 channels, such as " in line
    assert "but those in two_channels have 2, such as a/0.npy; name labeled images like those for the training" in line
    assert not Path("unwritten").exists()


def test_pretrain_checks_the_optimizer_before_it_reads_images(capsys, monkeypatch):
    monkeypatch.setattr("ssl_pretext.cli.pretrain._images", interrupt)
    arguments = ["--data", "photos", "--out", "unwritten", "--optimizer", "adamx", *SMALL]
    assert "there is no optimizer named 'adamx'. Did you mean" in error_line(capsys, "pretrain", *arguments)
    assert not Path("unwritten").exists()


def test_pretrain_says_how_to_resume_after_ctrl_c(capsys, monkeypatch):
    monkeypatch.setattr("ssl_pretext.cli.pretrain.fit", interrupt)
    message = error_line(capsys, "pretrain", "--data", "photos", "--out", "stopped", *SMALL, code=130)
    assert "stopped by Ctrl-C. The same command with --resume continues" in message


def test_pretrain_refuses_the_folder_of_another_run(capsys):
    again = ["pretrain", "--config", "run/pretrain.yaml"]
    assert "run holds another pretraining run; resume it with --resume" in error_line(capsys, *again)
    message = error_line(capsys, *again, "--resume", "--encoder", "timm/resnet10t", "--batch-size=4")
    assert "other settings: encoder autoencoder, batch_size 8. Resume it with them (--config run/" in message


def test_pretrain_refuses_a_checkpoint_without_its_settings(capsys):
    shutil.copytree("run/checkpoints", "stray/checkpoints")
    for resume in ([], ["--resume"]):
        line = error_line(capsys, "pretrain", "--data", "photos", "--out", "stray", *SMALL, *resume)
        assert "stray has a checkpoint, checkpoints/last.ckpt, but no fit.json, which says which run it belongs" in line
    assert [path.name for path in Path("stray").iterdir()] == ["checkpoints"]


def test_pretrain_can_be_repeated_after_it_failed_before_its_first_checkpoint(capsys):
    again = ["pretrain", "--data", "photos", "--out", "mistaken", *SMALL]
    assert "choose a larger image size" in error_line(capsys, *again, "--image-size", "2")
    assert main([*again, "--resume"]) == 0, "the settings of the failed run do not matter"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data nowhere --out new", "there is no data folder nowhere"),
        ("--data photo.jpg --out new", "photo.jpg is a file and not a data folder; pass the folder that contains"),
        ("--data photos --out new --image-size 1000000", "--image-size must be at most 13377 pixels, got 1000000"),
        (
            "--data s3://x/a.tar --out new",
            "images are only counted in local shards; pass --epoch-images for s3://x/a.tar",
        ),
        (
            "--data photos --out new --task colors",
            "there is no task named 'colors'. Known: barlow_twins, colorization",
        ),
        ("--data photos --out new --encoder timm/resnet", "timm has no network named 'resnet'. Did you mean"),
        ("--data photos --out new --losses l1=", "losses are written 'smooth_l1=1,lpips[net=squeeze]=1', got 'l1='"),
        ("--data photos --out new --epochs 0", "--epochs must be a whole number of at least 1, got 0"),
        ("--data photos --out new --weight-decay -1", "--weight-decay must be a number of at least 0, "),
        ("--data photos --out new --epochs few", "Error parsing --epochs: invalid literal"),
        (
            "--data photos --out new --image-sise 3",
            "Unrecognized options: --image-sise, 3; Perhaps you meant",
        ),
        ("--data photos", "Missing from ssl-pretext pretrain: --out"),
        ("--config none.yaml", "none.yaml does not exist"),
    ],
)
def test_pretrain_writes_nothing_for_a_wrong_request(arguments, message, capsys):
    assert message in error_line(capsys, "pretrain", *arguments.split())
    assert not Path("new").exists()


def test_probe_prints_a_table_and_writes_the_report_the_results_and_the_card(capsys):
    request = ["probe", "run", "--data", "labeled", "--probe", "knn[k=3],linear", "--per-class", "2", "--seeds", "2"]
    assert main([*request, "--holdout", "0.5"]) == 0
    output = capsys.readouterr().out
    about = (
        "18 images of 3 classes in labeled, 9 of them held out for testing (fraction 0.5, seed 0); 2 labels per class"
    )
    assert about in output
    assert output.count("| colorization (untrained) |") == 2
    assert "9 of 9 test images are identical to images of the pretraining, whose labels it did not use (" in output
    page = Path("run/probe/report.html").read_text()
    assert all(text in page for text in ("knn[k=3] probe", "linear probe", "data:image/png", "minus untrained"))
    report = ProbeReport.from_json("run/probe/knn[k=3].json")
    assert report.card["train"]["images"] == report.card["test"]["images"] == 9
    card = json.loads(Path("run/probe/card.json").read_text())
    assert card["probes"]["knn[k=3]"] == report.card
    assert card["options"]["holdout"] == 0.5
    assert json.loads(Path("run/probe/skipped.json").read_text()) == []


@pytest.mark.parametrize("command", [["probe", "run"], ["compare", "run", "timm/resnet10t"]])
def test_probe_and_compare_say_beforehand_how_long_they_take(command, capsys, monkeypatch):
    monkeypatch.setattr("ssl_pretext.probes.time_estimate.LEAST", 0.0)
    request = [*command, "--data", "labeled", "--seeds", "1", "--out", "timed", "--probe", "linear"]
    assert main([*request, "--controls", "untrained"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [number for number, line in enumerate(lines) if re.match(r"about \d+ s: .*linear probes \(\d+ s\)", line)]
    assert line < next(number for number, line in enumerate(lines) if line.startswith("|")), "before the table"


def test_probe_counts_test_images_that_nearly_equal_those_of_the_pretraining(capsys):
    for path in Path("labeled").rglob("*.png"):
        copy = Path("copies") / path.relative_to("labeled").with_suffix(".jpg")
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(copy, quality=90)
    assert (
        main(["probe", "run", "--data", "copies", "--holdout", "0.5", "--probe", "knn", "--seeds", "1", "--out", "out"])
        == 0
    )
    assert re.search(r"[5-9] of 9 test images are nearly equal to images of the pretraining, ", capsys.readouterr().out)


def test_probe_takes_several_runs_and_networks_in_the_same_tables(capsys):
    names = ["run", "run/task", "timm/resnet10t[layer=layer1]"]
    request = ["probe", *names, "--data", "labeled", "--probe", "knn", "--seeds", "1", "--out", "compared"]
    assert main([*request, "--pooling", "gap"]) == 0
    report = ProbeReport.from_json("compared/knn.json")
    assert [*report.card["against"]] == names
    assert {f"{name} (untrained)" for name in names} <= {*report.names}
    assert report.values("run/task") == report.values("run")
    assert "needs a class token" in error_line(capsys, *request, "--pooling", "cls")


def test_probe_takes_a_published_network_and_a_layer(capsys):
    request = ["probe", "timm/resnet10t", "--data", "labeled", "--probe", "knn", "--seeds", "1", "--controls", "pixels"]
    assert "timm/resnet10t has no folder to write to; choose one with --out" in error_line(capsys, *request)
    size = ["--image-size", "32", "--out", "published"]
    assert main([*request, *size, "--layer", "layer2"]) == 0
    card = ProbeReport.from_json("published/knn.json").card
    assert card["representations"]["timm/resnet10t"][0]["layer"] == "layer2"
    page = Path("published/report.html").read_text()
    assert "What does the network find alike?" in page
    assert '<p class="answer">' in page
    assert "has no layer 'layer9'" in error_line(capsys, *request, *size, "--layer", "layer9")


@contextmanager
def locked_by_another(folder):
    """Locks a folder in another thread, where the lock counts as that of another process."""
    locked, done = threading.Event(), threading.Event()

    def lock():
        with exclusive_lock(Path(folder)):
            locked.set()
            done.wait()

    thread = threading.Thread(target=lock)
    thread.start()
    locked.wait()
    yield
    done.set()
    thread.join()


def test_a_second_command_in_a_folder_is_refused(capsys):
    options = Path("run/pretrain.yaml").read_text()
    with locked_by_another("run"):
        message = error_line(capsys, "pretrain", "--config", "run/pretrain.yaml", "--resume", "--compile")
    assert "run is in use by process" in message
    assert Path("run/pretrain.yaml").read_text() == options
    request = ["probe", "run", "--data", "labeled", "--probe", "knn", "--seeds", "1", "--out", "taken"]
    with locked_by_another("taken"):
        assert "taken is in use by process" in error_line(capsys, *request)
    left = Path("taken/knn.json.123.part")
    left.write_text("incomplete")
    assert main(request) == 0
    assert not left.exists()


def test_probe_reports_collapsed_features(capsys, monkeypatch):
    request = ["probe", "run", "--data", "labeled", "--probe", "knn", "--seeds", "1", "--holdout", "0.5"]
    assert main([*request, "--out", "healthy"]) == 0
    assert "collapsed:" not in capsys.readouterr().out + Path("healthy/report.html").read_text()
    features = sp.Colorization.feature_maps
    monkeypatch.setattr(
        sp.Colorization,
        "feature_maps",
        lambda *arguments: {layer: maps[:1].expand_as(maps) for layer, maps in features(*arguments).items()},
    )
    assert main([*request, "--out", "collapsed"]) == 0
    for text in (capsys.readouterr().out, Path("collapsed/report.html").read_text()):
        assert "colorization has collapsed: its features differ between images by 0.00%" in text


def test_probe_reads_a_test_folder(capsys):
    request = ["probe", "run/task", "--data", "labeled", "--test", "labeled_test", "--probe", "knn", "--seeds", "1"]
    assert main([*request, "--out", "on_test"]) == 0
    assert "6 in labeled_test for testing; all labels, 1 seeds" in capsys.readouterr().out
    assert ProbeReport.from_json("on_test/knn.json").card["train"]["images"] == 18


def test_probe_uses_folders_named_like_splits(capsys):
    for split, folder in (("train", "labeled"), ("val", "labeled_test"), ("test", "labeled_test")):
        shutil.copytree(folder, f"beside/{split}")
    request = ["probe", "run/task", "--data", "beside", "--probe", "knn", "--seeds", "1", "--controls", "pixels"]
    assert main(request) == 0
    output = capsys.readouterr().out
    assert "beside has splits: training on beside/train, testing on beside/test" in output
    assert "18 images of 3 classes in beside/train, 6 in beside/test for testing; all labels" in output
    shutil.rmtree("beside/test")
    assert main([*request, "--out", "on_val"]) == 0
    assert "6 in beside/val for testing" in capsys.readouterr().out
    shutil.copytree("labeled", "beside/training")
    assert "are splits of a data set and not classes" in error_line(capsys, *request)


def flat_folder():
    """Writes the photos of `labeled` into the folder `flat`, and a table of them to `flat.csv`."""
    Path("flat").mkdir(exist_ok=True)
    rows = ["image,what,shown,patient,split"]
    for i, path in enumerate(sorted(Path("labeled").rglob("*.png"))):
        shutil.copy(path, f"flat/{i}.png")
        kind = path.parent.name
        rows.append(f"{i},{kind},{kind}|{'odd' if i % 2 else 'even'},p{i // 2},{'test' if i % 6 < 2 else 'train'}")
    Path("flat.csv").write_text("\n".join(rows))


@pytest.mark.parametrize(
    ("options", "about", "metric"),
    [
        (
            "label=what",
            "18 images of 3 classes in flat, 6 of them for testing and 12 for training, as flat.csv states;",
            "a",
        ),
        (
            "label=what,group=patient --holdout 0.3",
            "6 of them held out for testing (fraction 0.3, seed 0, 3 groups)",
            "a",
        ),
        (
            "label=shown --target labels --num-labels 9",
            "18 images with labels in flat, 6 of them for testing",
            "mean_ave",
        ),
        ("label=image --target numbers", "18 images with numbers in flat, 6 of them for testing and 12 for", "r2"),
    ],
)
def test_probe_takes_labels_from_a_table(options, about, metric, capsys):
    flat_folder()
    request = "probe run --data flat --labels flat.csv --probe knn --seeds 1 --controls pixels --out tabled".split()
    columns, *others = options.split()
    assert main([*request, "--columns", f"file=image,{columns}", *others]) == 0
    output = capsys.readouterr().out
    assert about in output
    assert output.count("flat.csv names") == 1, "it is read once"
    card = json.loads(Path("tabled/card.json").read_text())
    assert card["options"]["labels"] == "flat.csv"
    assert card["probes"]["knn"]["test"]["images"] == 6
    assert ProbeReport.from_json("tabled/knn.json").metric().name.startswith(metric)


def test_a_run_and_a_probe_take_images_from_several_files(capsys):
    for path in Path("labeled").rglob("*.png"):
        for channel, band in zip("rgb", Image.open(path).split(), strict=True):
            save = Path("bands", path.parent.name, f"{path.stem}_{channel}.png")
            save.parent.mkdir(parents=True, exist_ok=True)
            band.resize((16, 16) if channel == "b" else band.size).save(save)
    files = ["--pattern", "{label}/{id}_{channel:r|g|b}.png", "--resample", "r=nearest,b=bilinear"]
    assert main(["pretrain", "--data", "bands", "--out", "banded", *files, *SMALL]) == 0
    assert yaml.safe_load(Path("banded/pretrain.yaml").read_text())["resample"] == "r=nearest,b=bilinear"
    request = ["probe", "banded", "--data", "bands", "--probe", "knn", "--seeds", "1", "--controls", "pixels"]
    assert main([*request, *files]) == 0
    assert "18 images of 3 classes in bands" in capsys.readouterr().out
    message = error_line(capsys, *request, *files[:2])
    assert "different sizes: [(16, 16), (32, 32)]; pass resample, bilinear or nearest" in message
    assert "--pattern, --resample are for folders only" in error_line(
        capsys, "pretrain", "--data", "{0..1}.tar", "--out", "new", "--pattern", "{id}.png"
    )


def test_probe_takes_masks_in_files_of_their_own(capsys):
    for number in range(12):
        pixels = torch.zeros(3, 32, 32, dtype=torch.uint8)
        pixels[:, :, number:] = 200  # bright on the right, which is class 1
        save_image(pixels, Path("scenes", f"{number:02}_rgb.png"))
        Image.fromarray((pixels[0] > 0).numpy().astype("uint8")).save(f"scenes/{number:02}_mask.png")
    files = ["--data", "scenes", "--pattern", "{place}_rgb.png", "--masks", "{place}_mask.png", "--image-size", "16"]
    assert main(["probe", "run", *files, "--probe", "linear", "--seeds", "2", "--out", "masked"]) == 0
    printed = capsys.readouterr().out
    assert "12 images with masks in scenes, 3 of them held out for testing" in printed
    assert "do not match" not in printed
    assert json.loads(Path("masked/linear.json").read_text())["card"]["target"] == "mask"


def test_probe_can_write_into_the_folder_of_its_images():
    shutil.copytree("labeled", "around")
    request = ["probe", "run", "--data", "around", "--out", "around/probe", "--probe", "knn", "--seeds", "1"]
    for _ in range(2):
        assert main(request) == 0
        assert sp.ImageStore.from_folder("around", image_size=16).classes == ["astronaut", "chelsea", "china"]
        assert json.loads(Path("around/probe/skipped.json").read_text()) == []


def test_probe_says_how_to_continue_after_ctrl_c(capsys, monkeypatch):
    monkeypatch.setattr("ssl_pretext.cli.probe.evaluate", interrupt)
    message = error_line(capsys, "probe", "run", "--data", "labeled", "--out", "stopped_probe", code=130)
    assert "The same command continues; probes that were finished are not trained again." in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere --data labeled", "there is no folder nowhere with a saved task"),
        ("photos --data labeled", "photos/config.json does not exist"),
        (
            "unfinished --data labeled",
            "has not finished; finish it first: ssl-pretext pretrain --config unfinished/pretrain",
        ),
        ("run --data photos", "1 of its 19 images outside class folders, such as broken.jpg"),
        ("run --data labeled --probe linaer", "no probe named 'linaer'. Did you mean 'linear'"),
        ("run --data labeled --probe knn,knn", "--probe must name each probe once, got knn,knn"),
        ("run --data labeled --holdout 2", "--holdout must be between 0 and 1, got 2.0"),
        ("run --data photo.jpg", "photo.jpg is a file and not a data folder; pass the folder"),
        ("run --data split --holdout 0.5", "are splits of a data set and not classes"),
        ("run --data split --holdout 0.5", ": --data split/train --test split/test"),
        (
            "run --data photos --probe linear --target mask",
            "--masks and --target mask belong together, got --target mask",
        ),
        (
            "run --data photos --masks a --target labels",
            "--masks and --target mask belong together, got --target labels",
        ),
        ("run --data photos --masks {id}_mask.png", "the knn probe predicts no masks; probes that do: linear, conv"),
        (
            "run --data photos --probe linear --masks {id}_mask.png",
            "--masks is for images that --pattern describes, such as --pattern",
        ),
        ("run --data photos --target numbers", "--target numbers is for the table of --labels; name the table"),
        ("run --data photos --columns file=a", "--columns is for the table of --labels; name the table"),
        ("run --data photos --labels none.csv", "there is no table none.csv; check the path"),
        ("run --data photos --labels none.csv --test labeled", "state the test images in the column split of --labels"),
        (
            "run --data photos --labels x.csv --columns file",
            "--columns must be names with values, each name once, such",
        ),
        (
            "run --data labeled --pattern {a}/{id}.png",
            "--pattern {a}/{id}.png has no part label, which is the class; add",
        ),
        ("run --data labeled --image-size 1000000", "--image-size must be at most 13377 pixels, got 1000000"),
        (
            "run --data labeled --test split/test",
            "the test images have no class 'astronaut', 'chelsea', 'china', and the",
        ),
        ("run --data labeled --probe knn --per-class 9", "labeled images, fewer than --per-class=9"),
        (
            "wide --data labeled",
            "wide records the image size (16, 24), but a single number is needed; set --image-size",
        ),
    ],
)
def test_probe_refuses_wrong_requests(arguments, message, capsys):
    Path("unfinished").mkdir(exist_ok=True)
    for name in ("train", "val", "test"):
        if not Path("split", name).exists():
            shutil.copytree("labeled/china", f"split/{name}/soup")
    Path("unfinished/fit.json").write_text("{}")
    Path("unfinished/pretrain.yaml").touch()
    if arguments.startswith("wide"):
        task = sp.PretextTask.from_pretrained("run/task")
        task.trained_on = TrainedOn(image_size=(16, 24))
        task.save_pretrained("wide")
    assert message in error_line(capsys, "probe", *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("tasks", {"colorization", "cross_channel", "split_brain"}),
        ("losses --search l1", {"l1", "smooth_l1"}),
        ("encoders", {"autoencoder", "timm/*", "torchvision/*"}),
        ("encoders --search torchvision/resnet18", {"torchvision/resnet18"}),
    ],
)
def test_list(arguments, names, capsys):
    assert main(["list", *arguments.split()]) == 0
    assert {*capsys.readouterr().out.split()} >= names


def test_list_says_what_each_task_does(capsys):
    assert main(["list", "tasks", "--search", "split"]) == 0
    assert capsys.readouterr().out.startswith("split_brain  Predicts `first` from `second` and `second` from `first`")


def test_list_refuses_unknown_names_and_kinds(capsys):
    assert "there are no losses with 'l7' in their name" in error_line(capsys, "list", "losses", "--search", "l7")
    assert "invalid choice 'colors'" in error_line(capsys, "list", "colors")
    everything = "pretrain, probe, compare, embed, search, finetune, export, push, colorize, predict, list, cache"
    assert f"Expected one of {{{everything}}}" in error_line(capsys)


def test_a_missing_parser_library_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    for module in ("options", "parsing"):
        monkeypatch.delitem(sys.modules, f"ssl_pretext.cli.{module}")
    assert "needs tyro, which is not installed: pip install 'ssl-pretext[cli]'" in error_line(capsys, "list", "tasks")


def test_the_version_is_printed_without_the_parser_library(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.delitem(sys.modules, "ssl_pretext.cli.parsing")
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"ssl-pretext {__version__}\n", "")


@pytest.mark.parametrize("page", ["README.md", "docs/cli.md"])
def test_the_commands_in_the_docs_run(page, tmp_path, monkeypatch):
    """They run as written, except for their size and for a loss that needs weights."""
    monkeypatch.setattr("ssl_pretext.selection.search.plan_steps", lambda steps, *_: dict.fromkeys(steps, 2))
    folder = Path.cwd()
    text = (ROOT / page).read_text()
    for name in ("photos", "labeled", "labeled_test", "photo.jpg"):
        (tmp_path / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)
    names = [path.relative_to("labeled") for path in sorted(Path("labeled").rglob("*.png"))]
    Path("labels.csv").write_text("\n".join(["file,label", *(f"{name},{name.parent}" for name in names)]))
    for content in re.findall(r"```yaml\n(.*?)```", text, re.S):
        Path("run.yaml").write_text(content.replace("lpips[net=squeeze]", "l1"))
    small = {
        "pretrain": [*SMALL, "--image-size", "32"],
        "probe": ["--probe", "knn", "--seeds", "1", "--per-class", "2"],
        "compare": ["--probe", "knn", "--seeds", "1", "--per-class", "2,4"],
        "search": "--image-size 16 --batch-size 4 --encoder timm/resnet10t[layer=layer1] --probe knn "
        "--tasks rotation --device cpu".split(),
        "finetune": ["--seeds", "1", "--epochs", "1", "--per-class", "2"],
    }
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.S)).replace("lpips[net=squeeze]", "l1")
    commands = [shlex.split(line, comments=True)[1:] for line in blocks.splitlines() if line.startswith("ssl-pretext")]
    assert len(commands) >= 3
    for command in commands:
        assert main([*command, *small.get(command[0], [])]) == 0, command
