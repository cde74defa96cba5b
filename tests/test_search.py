"""The command `search` and the function behind it, on folders of a few small photos and with a tiny network."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import cli_folder, error_line, interrupt, save_two_channels  # noqa: F401 (cli_folder is a fixture)
from safetensors.torch import load_file

import ssl_pretext as sp
from ssl_pretext.cli import main
from ssl_pretext.errors import ArgumentError, CheckpointError, NotFiniteError
from ssl_pretext.selection import SearchConfig
from ssl_pretext.selection.trial import time_run

pytestmark = pytest.mark.usefixtures("cli_folder")

TINY = "timm/resnet10t[layer=layer1]"
SMALL = [
    *("--image-size", "16", "--encoder", TINY, "--batch-size", "4", "--device", "cpu", "--probe", "knn"),
    *("--tasks", "colorization,rotation"),
]
REQUEST = ["search", "--data", "photos", "--labeled", "labeled", "--minutes", "0.1", *SMALL]
CONFIG = SearchConfig(encoder=TINY, batch_size=8, device="cpu", probe="knn", tasks=("rotation", "colorization"))


@pytest.fixture
def few_steps(monkeypatch):
    """Lets every run have six steps, whatever the time, so that the tests do not depend on how busy the machine is."""
    monkeypatch.setattr("ssl_pretext.selection.search.plan_steps", lambda steps, *_: dict.fromkeys(steps, 6))


def photos(count=24, classes=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return sp.ImageStore.from_arrays(pixels, [i % classes for i in range(count)])


@pytest.mark.usefixtures("few_steps")
def test_search_ends_with_a_recommendation_and_commands_that_repeat_its_best_run(capsys):
    arguments = [*REQUEST, "--test", "labeled_test", "--out", "found"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    result = json.loads(Path("found/search.json").read_text())
    names = [row["name"] for row in result["rows"]]
    best = result["task"]
    assert {*names} == {"colorization", "rotation", "pixels rgb", "color histogram", f"{best} (untrained)"}
    assert names[0] == best
    assert result["rows"][0]["rounds"] == 2
    assert result["rows"][1]["rounds"] == 1
    assert result["fit"]["max_steps"] == 6
    assert re.search(r"Pretrain with|Use |It is not shown", output)
    assert "The test images had no part in the choice" in output
    assert result["report"]["card"]["test"]["images"] == 6
    page = Path("found/report.html").read_text()
    assert all(text in page for text in ("On the test images", "<svg", "color histogram", "find alike?"))
    answer = re.search(r'class="answer">(Yes|No|Not shown)<', page)[1]
    assert (answer == "Not shown") == (not result["recommendation"]["shown"])
    assert sp.PretextTask.from_pretrained("found").name == best

    commands = [shlex.split(line)[1:] for line in output.splitlines() if line.startswith("  ssl-pretext")]
    assert [command[0] for command in commands] == ["pretrain", "probe"]
    assert main([*commands[0], "--device", "cpu"]) == 0
    first, again = (load_file(f"{folder}/task/model.safetensors") for folder in (result["run"], "found-best"))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert main([*commands[1], "--seeds", "1"]) == 0

    capsys.readouterr()
    before = Path("found/journal.json").read_text()
    assert main(["search", "--config", "found/search.yaml"]) == 0, "it is finished, so that nothing is computed again"
    assert Path("found/journal.json").read_text() == before
    assert "with other settings (minutes)" in error_line(capsys, *arguments, "--minutes", "9")


@pytest.mark.usefixtures("few_steps")
def test_search_takes_labels_and_test_images_from_a_table(capsys):
    Path("flat").mkdir()
    rows = ["image,what,split"]
    for i, path in enumerate(sorted(Path("labeled").rglob("*.png"))):
        shutil.copy(path, f"flat/{i}.png")
        rows.append(f"{i},{path.parent.name},{'test' if i % 6 < 2 else 'train'}")
    Path("flat.csv").write_text("\n".join(rows))
    columns = ["--labels", "flat.csv", "--columns", "file=image,label=what"]
    request = ["search", "--data", "flat", *columns, "--minutes", "0.08", "--out", "tabled", *SMALL[:-1], "rotation"]
    assert main(request) == 0
    output = capsys.readouterr().out
    assert "18 images of 16 px to pretrain on, 12 labeled, 6 for testing" in output
    assert "--labels flat.csv --columns file=image,label=what" in output


@pytest.mark.usefixtures("few_steps")
def test_a_search_that_was_stopped_continues(capsys, monkeypatch):
    request = [*REQUEST, "--out", "stopped"]
    with monkeypatch.context() as patch:
        patch.setattr("ssl_pretext.selection.search._Search._fit", interrupt)
        assert "stopped by Ctrl-C. The same command continues the search." in error_line(capsys, *request, code=130)
    kept = json.loads(Path("stopped/journal.json").read_text())["steps"]
    assert "plan 0" in kept
    assert not any(name.startswith("train") for name in kept)
    calls = []
    monkeypatch.setattr("ssl_pretext.selection.search.time_run", lambda *_: calls.append(1))
    assert main(request) == 0
    assert not calls, "the trials are not repeated"
    found = json.loads(Path("stopped/journal.json").read_text())["steps"]
    assert {name: found[name] for name in kept} == kept
    assert "There were no test images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data photos --out new", "search needs labels; name a folder of labeled images with --labeled"),
        ("--data photos --labeled nowhere --out new", "there is no data folder nowhere"),
        ("--data photos --labeled labeled --minutes 0 --out new", "minutes of search() must be a positive number, got"),
        ("--data photos --labeled labeled --tasks colors --out new", "there is no task named 'colors'"),
        ("--data photos --labeled labeled --encoder timm/resnet --out new", "timm has no network named 'resnet'"),
        ("--data photos --labeled labeled --minutes 0.001 --out new", "the time is too short: 10 steps of"),
        ("--data photos --labeled labeled --probe conv --out new", "invalid choice 'conv'"),
        ("--data photos --labeled labeled", "Missing from ssl-pretext search: --out"),
    ],
)
def test_search_refuses_wrong_requests(arguments, message, capsys):
    small = [] if "--encoder" in arguments or "--tasks" in arguments or "conv" in arguments else SMALL
    assert message in error_line(capsys, "search", *arguments.split(), *small)
    assert not Path("new/journal.json").exists()


@pytest.mark.parametrize("option", ["--labeled", "--test"])
def test_search_looks_at_a_few_labeled_images_before_it_reads_all(option, capsys, monkeypatch):
    save_two_channels("two_channels")
    monkeypatch.setattr(sp.ImageStore, "from_folder", interrupt)
    labeled = [] if option == "--labeled" else ["--labeled", "labeled"]
    line = error_line(capsys, "search", "--data", "photos", *labeled, option, "two_channels", "--out", "new", *SMALL)
    assert "the images in photos have 3 channels, such as " in line
    assert "but those in two_channels have 2, such as a/0.npy; name labeled images like those for the training" in line


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("which", ["labeled", "test"])
def test_labeled_images_in_other_units_are_noticed(which, tmp_path, caplog):
    labels, names = [0, 1] * 8, ("red", "infrared")
    reflectance = torch.rand(16, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    given = {"labeled": (reflectance, labels), "test": (reflectance, labels)}
    given[which] = (10_000 * reflectance, labels)
    config = replace(CONFIG, tasks=("cross_channel[source=red;target=infrared]",))
    bands = sp.ChannelSpace.bands("bands", names)[names]
    sp.search(sp.ImageStore.from_arrays(reflectance), **given, minutes=0.06, out=tmp_path, bands=bands, config=config)
    found = re.findall(r"search\(\) on the (\w+) images: the values of 2 of 2 channels", caplog.text)
    assert found == [which]


@pytest.mark.usefixtures("few_steps")
def test_labels_without_a_signal_do_not_recommend_pretraining(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, 24)
    images = photos()
    found = sp.search(images, (images, labels), minutes=0.1, out=tmp_path, config=CONFIG)
    assert found.recommendation.use not in ("rotation", "colorization")
    assert not found.recommendation.shown
    frame = found.to_frame()
    assert frame["name"][0] == found.task.partition("[")[0]
    assert {"accuracy", "ci95", "kind", "minutes"} <= {*frame.columns}


@pytest.mark.usefixtures("few_steps")
def test_search_takes_bands_and_published_networks(tmp_path):
    pixels = torch.rand(16, 4, 16, 16)
    store = sp.ImageStore.from_arrays(pixels, [0, 1] * 8)
    names = ("B02", "B03", "B04", "B08")
    bands = sp.ChannelSpace.bands("bands", names)[names]
    config = SearchConfig(
        encoder=TINY, batch_size=8, device="cpu", probe="knn", tasks=("cross_channel[source=B02;target=B08]",)
    )
    found = sp.search(store, store, minutes=0.06, out=tmp_path, bands=bands, config=config)
    assert found.rows[0].name == "cross_channel"
    assert "color histogram" not in [row.name for row in found.rows]
    with pytest.raises(ArgumentError, match="needs the names of the 4 channels"):
        sp.search(store, store, minutes=1, out=tmp_path / "unnamed", config=config)


@pytest.mark.usefixtures("few_steps")
def test_a_task_that_cannot_be_trained_is_left_out(tmp_path, monkeypatch):
    gray = torch.randint(0, 256, (24, 1, 16, 16), dtype=torch.uint8).expand(-1, 3, -1, -1)
    store = sp.ImageStore.from_arrays(gray.clone(), [0, 1] * 12)
    found = sp.search(store, store, minutes=0.08, out=tmp_path / "gray", config=CONFIG)
    (left_out,) = [row for row in found.rows if row.kind == "left out"]
    assert left_out.name == "colorization"
    assert "24 of 24 training images are gray" in left_out.note
    assert found.task == "rotation"

    def diverge(*_, **__):
        raise NotFiniteError("the loss is NaN")

    monkeypatch.setattr("ssl_pretext.selection.search.fit", diverge)
    with pytest.raises(ArgumentError, match="could train no task: rotation: the loss is NaN"):
        sp.search(
            photos(), photos(), minutes=0.1, out=tmp_path / "diverged", config=replace(CONFIG, tasks=("rotation",))
        )


def test_search_checks_its_images(tmp_path):
    small = sp.ImageStore.from_arrays(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), [0, 1] * 2)
    with pytest.raises(ArgumentError, match="of one size and number of channels, got 3 channels and size 8 and 3 chan"):
        sp.search(photos(), small, minutes=1, out=tmp_path)
    with pytest.raises(ArgumentError, match="minutes of search\\(\\) must be a positive number, got '1'"):
        sp.search(photos(), photos(), minutes="1", out=tmp_path)
    with pytest.raises(ArgumentError, match="at least two classes"):
        sp.search(photos(), photos(classes=1), minutes=1, out=tmp_path)
    assert not (tmp_path / "search.json").exists()


@pytest.mark.slow
def test_a_search_keeps_its_time(tmp_path):
    found = sp.search(photos(), photos(), test=photos(seed=1), minutes=0.5, out=tmp_path, config=CONFIG)
    assert found.minutes == pytest.approx(0.5, rel=0.2)


def test_a_trial_measures_the_steps_and_leaves_nothing(tmp_path):
    config = sp.FitConfig(out=tmp_path / "runs" / "one", batch_size=8, max_steps=500, device="cpu")
    found = time_run(sp.create_task("rotation", encoder=TINY), photos(), config)
    assert 0 < found.step < 5
    assert found.overhead > 0
    assert list((tmp_path / "runs").iterdir()) == []


def test_another_search_is_not_continued(tmp_path):
    (tmp_path / "journal.json").write_text('{"settings": {"seed": 9}, "steps": {}, "seconds": 1}')
    with pytest.raises(CheckpointError, match="holds another search"):
        sp.search(photos(), photos(), minutes=1, out=tmp_path, config=CONFIG)
