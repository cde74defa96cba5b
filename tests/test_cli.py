"""The command line, run in this process on folders of a few small photos."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from skimage.color import rgb2lab

import ssl_pretext as sp
from ssl_pretext.cli import main
from ssl_pretext.cli.options import Pretrain
from ssl_pretext.cli.parsing import parse
from ssl_pretext.probes import ProbeReport
from ssl_pretext.saving.contract import TrainedOn
from ssl_pretext.system.locks import exclusive_lock

pytestmark = pytest.mark.usefixtures("folder")

ROOT = Path(sp.__file__).parents[1]
SMALL = ["--image-size", "16", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `photos`, `labeled`, `labeled_test`, `photo.jpg` and a trained `run`, in which the tests run."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SSL_PRETEXT_CACHE", str(folder / "cache"))
        patch.setattr("ssl_pretext.data.samples.MOST", {"train": 6, "test": 2})
        for split, name in (("train", "labeled"), ("test", "labeled_test")):
            store = sp.sample_photos(split, image_size=32)
            for i in (store.labels < 3).nonzero().flatten().tolist():
                save(store.images([i])[0], Path(name, store.classes[store.labels[i]], f"{i}.png"))
        shutil.copytree("labeled", "photos")
        Path("photos/broken.jpg").write_text("no photo")
        save(sp.sample_photos("test", image_size=64).images([5])[0], Path("photo.jpg"))
        assert main(["pretrain", "--data", "photos", "--out", "run", *SMALL]) == 0
        yield folder


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)


def refused(capsys, *arguments, code=2):
    """The one line that a request ends with."""
    assert main(arguments) == code
    line = capsys.readouterr().err
    assert line.startswith("ssl-pretext: ")
    assert line.count("\n") == 1
    return line


def test_pretrain_leaves_the_task_its_options_and_what_was_skipped():
    assert sp.PretextTask.from_pretrained("run/task").trained_on.image_size == 16
    (skipped,) = json.loads(Path("run/skipped.json").read_text())
    assert skipped["name"] == "broken.jpg"
    assert "cannot identify image file" in skipped["reason"]
    assert yaml.safe_load(Path("run/pretrain.yaml").read_text()).items() >= {
        "data": "photos", "task": "colorization", "encoder": "autoencoder", "out": "run", "batch_size": 8
    }.items()  # fmt: skip


def test_pretrain_goes_on_by_its_own_file(capsys):
    before = Path("run/history.json").read_text()
    assert main(["pretrain", "--config", "run/pretrain.yaml", "--resume"]) == 0
    assert Path("run/history.json").read_text() == before
    assert "18 images of 16 px from photos; unreadable and skipped: 1, see run/skipped.json" in capsys.readouterr().out


def test_pretrain_says_how_to_go_on_after_ctrl_c(capsys, monkeypatch):
    monkeypatch.setattr("ssl_pretext.cli.pretrain.fit", interrupt)
    said = refused(capsys, "pretrain", "--data", "photos", "--out", "stopped", *SMALL, code=1)
    assert "stopped by Ctrl-C. The same command with --resume goes on" in said


def test_pretrain_refuses_the_folder_of_another_run(capsys):
    again = ["pretrain", "--config", "run/pretrain.yaml"]
    assert "run holds another pretraining run; go on with it by --resume" in refused(capsys, *again)
    said = refused(capsys, *again, "--resume", "--encoder", "timm/resnet10t", "--batch-size=4")
    assert "other settings: encoder autoencoder, batch_size 8. Resume it with them, by --config run/" in said


def test_pretrain_may_be_asked_again_where_it_failed_before_its_first_checkpoint(capsys):
    again = ["pretrain", "--data", "photos", "--out", "mistaken", *SMALL]
    assert "choose a larger image size" in refused(capsys, *again, "--image-size", "2")
    assert main([*again, "--resume"]) == 0, "nor is it held to the settings of the mistake"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--data nowhere --out new", "there is no data folder nowhere"),
        (
            "--data photos --out new --task colors",
            "there is no task named 'colors'. Known: colorization",
        ),
        ("--data photos --out new --encoder timm/resnet", "timm has no network named 'resnet'. Did you mean"),
        ("--data photos --out new --losses l1", "losses are written 'smooth_l1=1,lpips[net=squeeze]=1', got 'l1'"),
        ("--data photos --out new --epochs 0", "FitConfig.epochs is a whole number of at least 1, got 0"),
        ("--data photos --out new --weight-decay -1", "FitConfig.weight_decay is a number, 0 or more, got -1"),
        ("--data photos --out new --epochs few", "Error parsing --epochs: invalid literal"),
        (
            "--data photos --out new --image-sise 3",
            "Unrecognized options: --image-sise, 3; Perhaps you meant",
        ),
        ("--data photos", "Missing from ssl-pretext pretrain: --out"),
        ("--config none.yaml", "none.yaml does not exist"),
    ],
)
def test_pretrain_bad_requests_leave_nothing_behind(given, said, capsys):
    assert said in refused(capsys, "pretrain", *given.split())
    assert not Path("new").exists()


def interrupt(*_arguments, **_options):
    raise KeyboardInterrupt


def test_the_command_line_has_the_last_word_over_a_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "data: photos\nimage-size: 32\nepochs: 16\nlearning_rate: 1e-3\naugment: true\ncompile: false\ncache:\n"
        "losses:\n  smooth_l1: 1\n  lpips[net=squeeze]: 0.5\n"
    )
    options = parse(["pretrain", f"--config={file}", "--epochs", "3", "--out", "run"])
    assert isinstance(options, Pretrain)
    assert (options.data, options.image_size, options.cache) == ("photos", 32, None)
    assert options.losses == "smooth_l1=1,lpips[net=squeeze]=0.5"
    assert options.fit == sp.FitConfig(out=Path("run"), epochs=3, learning_rate=1e-3, augment=True)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(options.settings()))
    assert parse(["pretrain", "--config", str(again)]).settings() == options.settings()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("epoch: 3\ncolor: 1", "run.yaml has color, epoch, which pretrain has not; known: augment, batch_size"),
        ("16", "holds no options; write one a line, such as 'epochs: 16'"),
        ("a: [", "is not valid YAML"),
        ("\x00", "is not valid YAML"),
    ],
)
def test_files_that_hold_no_options(content, said, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(content)
    assert said in refused(capsys, "pretrain", "--config", str(tmp_path / "run.yaml"))


def test_probe_prints_a_table_and_writes_page_figures_and_card(capsys):
    asked = ["probe", "run", "--data", "labeled", "--probe", "knn[k=3],linear", "--per-class", "2", "--seeds", "2"]
    assert main([*asked, "--holdout", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "18 images of 3 classes in labeled, 9 held out of them for testing (share 0.5, seed 0); 2 labels" in said
    assert said.count("| colorization (untrained) |") == 2
    page = Path("run/probe/report.html").read_text()
    assert all(text in page for text in ("knn[k=3] probe", "linear probe", "data:image/png", "minus untrained"))
    report = ProbeReport.from_json("run/probe/knn[k=3].json")
    assert report.card["train"]["images"] == report.card["test"]["images"] == 9
    card = json.loads(Path("run/probe/card.json").read_text())
    assert card["probes"]["knn[k=3]"] == report.card
    assert card["options"]["holdout"] == 0.5
    assert json.loads(Path("run/probe/skipped.json").read_text()) == []


@contextmanager
def busy(folder):
    """A folder in which somebody else is at work."""
    begun, done = threading.Event(), threading.Event()

    def work():
        with exclusive_lock(Path(folder)):
            begun.set()
            done.wait()

    somebody = threading.Thread(target=work)  # which does not share this one's claims, as another process does not
    somebody.start()
    begun.wait()
    yield
    done.set()
    somebody.join()


def test_two_commands_in_one_folder_are_kept_apart(capsys):
    options = Path("run/pretrain.yaml").read_text()
    with busy("run"):
        said = refused(capsys, "pretrain", "--config", "run/pretrain.yaml", "--resume", "--compile")
    assert "run is in use by process" in said
    assert Path("run/pretrain.yaml").read_text() == options
    asked = ["probe", "run", "--data", "labeled", "--probe", "knn", "--seeds", "1", "--out", "busy"]
    with busy("busy"):
        assert "busy is in use by process" in refused(capsys, *asked)
    left = Path("busy/knn.json.123.part")
    left.write_text("half")
    assert main(asked) == 0
    assert not left.exists()


def test_probe_reports_collapsed_features(capsys, monkeypatch):
    asked = ["probe", "run", "--data", "labeled", "--probe", "knn", "--seeds", "1", "--holdout", "0.5"]
    assert main([*asked, "--out", "lively"]) == 0
    assert "collapsed:" not in capsys.readouterr().out + Path("lively/report.html").read_text()
    features = sp.Colorization.feature_maps
    monkeypatch.setattr(
        sp.Colorization,
        "feature_maps",
        lambda *asked: {layer: maps[:1].expand_as(maps) for layer, maps in features(*asked).items()},
    )
    assert main([*asked, "--out", "collapsed"]) == 0
    for said in (capsys.readouterr().out, Path("collapsed/report.html").read_text()):
        assert "colorization has collapsed: its features differ between images by 0.00%" in said


def test_probe_takes_a_test_folder(capsys):
    asked = ["probe", "run/task", "--data", "labeled", "--test", "labeled_test", "--probe", "knn", "--seeds", "1"]
    assert main([*asked, "--out", "on_test"]) == 0
    assert "6 in labeled_test for testing; all labels of a class" in capsys.readouterr().out
    assert ProbeReport.from_json("on_test/knn.json").card["train"]["images"] == 18


def test_probe_may_write_among_its_images():
    shutil.copytree("labeled", "around")
    asked = ["probe", "run", "--data", "around", "--out", "around/probe", "--probe", "knn", "--seeds", "1"]
    for _ in range(2):
        assert main(asked) == 0
        assert sp.ImageStore.from_folder("around", image_size=16).classes == ["astronaut", "chelsea", "china"]
        assert json.loads(Path("around/probe/skipped.json").read_text()) == []


def test_probe_says_how_to_go_on_after_ctrl_c(capsys, monkeypatch):
    monkeypatch.setattr("ssl_pretext.cli.probe.evaluate", interrupt)
    said = refused(capsys, "probe", "run", "--data", "labeled", "--out", "stopped_probe", code=1)
    assert "The same command goes on; probes that were finished are kept." in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere --data labeled", "there is no folder nowhere with a saved task"),
        ("photos --data labeled", "photos/config.json does not exist"),
        ("unfinished --data labeled", "has not ended; let it: ssl-pretext pretrain --config unfinished/pretrain"),
        ("run --data photos", "1 of its 19 images outside class folders, such as broken.jpg"),
        ("run --data labeled --probe linaer", "no probe named 'linaer'. Did you mean 'linear'"),
        ("run --data labeled --probe knn,knn", "--probe names one twice: knn,knn"),
        ("run --data labeled --holdout 2", "takes a fraction between 0 and 1, got 2.0"),
        ("run --data labeled --probe knn --per-class 9", "labeled images, fewer than per_class=9"),
        ("wide --data labeled", "pretrained on images of size (16, 24); give one by --image-size"),
    ],
)
def test_probe_bad_requests(given, said, capsys):
    Path("unfinished").mkdir(exist_ok=True)
    Path("unfinished/fit.json").write_text("{}")
    if given.startswith("wide"):
        task = sp.PretextTask.from_pretrained("run/task")
        task.trained_on = TrainedOn(image_size=(16, 24))
        task.save_pretrained("wide")
    assert said in refused(capsys, "probe", *given.split())


@pytest.mark.parametrize("size", [(63, 201), (1, 1), (400, 7)])
def test_colorize_keeps_size_and_lightness(size, tmp_path, capsys):
    gradient = np.linspace(60, 190, size[0] * size[1]).reshape(*size, 1).repeat(3, 2).astype(np.uint8)
    Image.fromarray(gradient).save(tmp_path / "gray.png")
    assert main(["colorize", "run", str(tmp_path / "gray.png"), "-o", str(tmp_path / "out.png")]) == 0
    assert "colored: " in capsys.readouterr().out
    colored = np.asarray(Image.open(tmp_path / "out.png"))
    assert colored.shape == gradient.shape
    inside = ((colored > 0) & (colored < 255)).all(-1)
    assert inside.mean() > 0.5
    assert np.ptp(colored, axis=-1).max() > 0, "no color"
    assert np.abs(rgb2lab(colored) - rgb2lab(gradient))[inside, 0].max() < 0.4  # rounding moves L by 0.2 or so


def test_colorize_a_large_photo_is_done_in_strips(monkeypatch):
    from ssl_pretext.cli import colorize

    task = sp.Colorization.from_pretrained("run/task")
    photo = sp.sample_photos("test", image_size=33).images([0])[0]
    whole = colorize.colorize_photo(task, photo)
    monkeypatch.setattr(colorize, "PIXELS_AT_ONCE", 100)
    assert torch.equal(colorize.colorize_photo(task, photo), whole)


def test_colorize_orientation_is_applied(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert main(["colorize", "run", str(tmp_path / "turned.png"), "-o", str(tmp_path / "out.tif")]) == 0
    with Image.open(tmp_path / "out.tif") as colored:
        assert colored.size == (24, 40)


def test_colorize_a_folder(tmp_path, capsys):
    assert main(["colorize", "run", "photos", "-o", str(tmp_path / "out")]) == 0
    assert "unreadable and skipped: 1, see" in capsys.readouterr().out
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert written == sorted(path.relative_to("photos").as_posix() for path in Path("photos").rglob("*.png"))
    (skipped,) = json.loads((tmp_path / "out/skipped.json").read_text())
    assert skipped["name"] == "photos/broken.jpg"


def test_colorize_names_that_differ_in_their_suffix_alone_stay_apart(tmp_path):
    for name in ("a.jpg", "a.png"):
        save(torch.zeros(3, 8, 8, dtype=torch.uint8), tmp_path / "photos" / name)
    assert main(["colorize", "run", str(tmp_path / "photos"), "-o", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"a.jpg.png", "a.png.png"}


def test_colorize_says_what_remains_after_ctrl_c(capsys, monkeypatch):
    monkeypatch.setattr("ssl_pretext.cli.colorize.colorize_photo", interrupt)
    said = refused(capsys, "colorize", "run", "photo.jpg", "-o", "never.png", code=1)
    assert "Pictures that were written are whole" in said
    assert not list(Path().glob("never*"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("run nowhere.jpg -o out.png", "there is no photo and no folder nowhere.jpg"),
        ("run photo.jpg -o photo.jpg", "-o photo.jpg is the photo itself, which is never overwritten"),
        ("run photo.jpg -o photos/../photo.jpg", "is the photo itself"),
        ("run photo.jpg -o out.gif", "-o out.gif must end in one of .png, .jpg"),
        ("run photo.jpg -o photos.png", "-o photos.png is a folder; name the picture to write"),
        ("run photos -o photos", "-o photos and photos lie one in the other"),
        ("run photos -o photos/out", "lie one in the other"),
        ("run photos -o photo.jpg", "-o photo.jpg is a file; for a folder of photos it is a folder"),
        ("run photos/broken.jpg -o out.png", "no photo could be read; photos/broken.jpg: UnidentifiedImageError"),
        ("run bands.npy -o out.png", "no photo could be read; bands.npy: it holds 5 channels of float"),
        ("split photo.jpg -o out.png", "holds the task 'split_brain', which is not a Colorization"),
        ("sizeless photo.jpg -o out.png", "the task does not say at which image size it was trained"),
    ],
)
def test_colorize_bad_requests_write_nothing(given, said, capsys):
    Path("photos.png").mkdir(exist_ok=True)
    np.save("bands.npy", np.zeros((5, 8, 8), np.float32))
    if given.startswith("split"):
        sp.SplitBrain("lab:L", "lab:ab", "autoencoder").save_pretrained("split")
    if given.startswith("sizeless"):
        sp.Colorization("autoencoder").save_pretrained("sizeless")
    before = Path("photo.jpg").read_bytes()
    assert said in refused(capsys, "colorize", *given.split())
    assert Path("photo.jpg").read_bytes() == before
    assert not Path("out.png").exists()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("tasks", {"colorization", "cross_channel", "split_brain"}),
        ("losses --search l1", {"l1", "smooth_l1"}),
        ("encoders", {"autoencoder", "timm/*", "torchvision/*"}),
        ("encoders --search torchvision/resnet18", {"torchvision/resnet18"}),
    ],
)
def test_list(given, names, capsys):
    assert main(["list", *given.split()]) == 0
    assert {*capsys.readouterr().out.split()} >= names


def test_what_cannot_be_listed(capsys):
    assert "none of the losses has 'l7' in its name" in refused(capsys, "list", "losses", "--search", "l7")
    assert "invalid choice 'colors'" in refused(capsys, "list", "colors")
    assert "Expected one of {pretrain, probe, colorize, list}" in refused(capsys)


def test_help_is_quick_and_plain():
    command = [sys.executable, "-X", "importtime", "-m", "ssl_pretext.cli", "pretrain", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "tyro" in loaded
    assert not loaded & {"lightning", "diffusers", "timm", "torchvision", "torchmetrics", "matplotlib", "scipy"}
    assert "ssl-pretext pretrain --data photos --out runs/first" in done.stdout
    assert "Passes over the images. (default: 16)" in done.stdout
    assert "\x1b" not in done.stdout


def test_the_shell_completes_options(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--tyro-print-completion", "bash"])
    assert not ended.value.code
    assert "--image-size" in capsys.readouterr().out


def test_without_the_library_of_the_command_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    for module in ("options", "parsing"):
        monkeypatch.delitem(sys.modules, f"ssl_pretext.cli.{module}")
    assert "needs tyro, which is not installed: pip install 'ssl-pretext[cli]'" in refused(capsys, "list", "tasks")


@pytest.mark.parametrize("page", ["README.md", "docs/cli.md"])
def test_commands_of_the_docs_run(page, folder, tmp_path, monkeypatch):
    """As written, at toy size, and without the loss that needs weights."""
    text = (ROOT / page).read_text()
    for name in ("photos", "labeled", "labeled_test", "photo.jpg"):
        (tmp_path / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)
    for file in re.findall(r"```yaml\n(.*?)```", text, re.S):
        Path("run.yaml").write_text(file.replace("lpips[net=squeeze]", "l1"))
    small = {
        "pretrain": ["--image-size", "32", *SMALL[2:]],
        "probe": ["--probe", "knn", "--seeds", "1", "--per-class", "2"],
    }
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.S)).replace("lpips[net=squeeze]", "l1")
    commands = [shlex.split(line, comments=True)[1:] for line in blocks.splitlines() if line.startswith("ssl-pretext")]
    assert len(commands) >= 3
    for command in commands:
        assert main([*command, *small.get(command[0], [])]) == 0, command
